"""Malformed model files: the safetensors header, what the model says of itself, its tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from comir_search.index.index import layout_for
from comir_search.model.embedding import code, decode, embed_array
from comir_search.model.intensity import measure_intensity
from comir_search.model.model import DEFAULT_MODEL, Model, load_model
from comir_search.retrieval.confidence import measure
from fuzzing.case import MEBIBYTE, Attempt, Case, copy_tree, pick
from fuzzing.mutations import SIZES_64, Raw, break_bytes, break_document, break_value, dump

MEMORY_BYTES = 1024 * MEBIBYTE
_NAME = "model.safetensors"


def make_bases(folder: Path) -> None:
    """Copy the shipped model."""
    copy_tree(DEFAULT_MODEL, folder / _NAME)


def copy_bases(bases: Path, folder: Path) -> list[Case]:
    """Return the shipped model as a case."""
    return [_begin(bases, folder / "sound")]


def write_case(bases: Path, folder: Path, rng: np.random.Generator) -> Case:
    """Break the shipped model."""
    case = _begin(bases, folder)
    length, header, data = _split(case.target.read_bytes())
    choice = rng.random()
    if choice < 0.5:
        # Metadata are text, so what is broken inside them is JSON within JSON.
        text, note = break_document(header["__metadata__"]["model"], rng)
        header["__metadata__"]["model"] = text
        content = _join(json.dumps(header), data)
    elif choice < 0.65:
        broken, note = _break_header(header, rng)
        content = _join(dump(broken), data)
    elif choice < 0.9:
        content, note = _break_tensors(case.target, header["__metadata__"], rng)
    elif choice < 0.95:
        size = pick(rng, (*SIZES_64, length + 1, length - 1, length + len(data)))
        content, note = size.to_bytes(8, "little") + case.target.read_bytes()[8:], f"header of {size} bytes"
    else:
        content, note = break_bytes(case.target.read_bytes(), rng)
    case.target.write_bytes(content)
    case.notes.append(note)
    return case


def act(case: Case, attempt: Attempt) -> None:
    """Load the model and use each part of it."""
    model = attempt("load", lambda: load_model(case.target, "cpu"))
    if model is not None:
        use_model(model, attempt)
        attempt("save", lambda: model.save(case.out / _NAME))


def use_model(model: Model, attempt: Attempt) -> None:
    """Embed a little, make words of it, and weigh a score."""
    attempt("fingerprints", lambda: (model.fingerprint, model.words_fingerprint, model.embedding_fingerprint))
    for modality in model.modalities:
        attempt(f"embed {modality}", lambda modality=modality: _embed(model, modality))
        attempt(f"layout of {modality}", lambda modality=modality: _other_than_none(model, modality))
    if model.calibration is not None:
        attempt("confidence", lambda: model.calibration.confidence(measure([0.5, 0.4], 0.5, 256.0)))


def _other_than_none(model: Model, modality: str) -> Any:
    model.other(modality)
    return layout_for(model, modality) if model.vocabulary is not None else None


def _embed(model: Model, modality: str) -> None:
    side = model.modality(modality)
    ramp = np.arange(64 * 96, dtype=np.uint16).reshape(64, 96, 1).repeat(model.channels_of(modality), axis=2)
    image = measure_intensity(ramp, side.intensity, ramp.dtype).apply(ramp)
    comir = decode(code(embed_array(model, image, modality)))
    if model.vocabulary is not None:
        model.vocabulary.assign(model.vocabulary.project((comir + 1) / 2))


def _begin(bases: Path, folder: Path) -> Case:
    case = Case.begin(folder, _NAME)
    copy_tree(bases / _NAME, case.target)
    return case


def _split(content: bytes) -> tuple[int, dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    return length, json.loads(content[8 : 8 + length]), content[8 + length :]


def _join(header: str, data: bytes) -> bytes:
    encoded = header.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded + data


def _break_header(header: dict[str, Any], rng: np.random.Generator) -> tuple[Any, str]:
    """Change what the header says of tensors, or of the file."""
    if rng.random() < 0.25:
        metadata = pick(
            rng,
            (
                None,
                {},
                {"model": ""},
                {"model": Raw("1")},
                {"model": "null"},
                {"other": "x"},
                [],
                {"model": []},
            ),
        )
        return {**header, "__metadata__": metadata}, f"metadata = {metadata}"
    name = pick(rng, [name for name in header if name != "__metadata__"])
    if rng.random() < 0.3:
        field, value = pick(
            rng,
            (
                ("dtype", "F64"),
                ("dtype", "I64"),
                ("dtype", "BOOL"),
                ("dtype", "F8_E4M3"),
                ("dtype", "X"),
                ("shape", [2**31, 2**31]),
                ("shape", []),
                ("shape", [0]),
                ("data_offsets", [0, 2**63]),
                ("data_offsets", [8, 0]),
                ("data_offsets", [0, 4]),
            ),
        )
        return {**header, name: {**header[name], field: value}}, f"{name} {field} = {value}"
    broken, note = break_value(header[name], rng)
    return {**header, name: broken}, f"{name}: {note}"


def _break_tensors(path: Path, metadata: dict[str, str], rng: np.random.Generator) -> tuple[bytes, str]:
    """Write a sound file whose tensors are not those of a model."""
    tensors = load_file(path)
    wanted = "vocabulary" if rng.random() < 0.5 else ""
    name = pick(rng, [name for name in sorted(tensors) if name.startswith(wanted)])
    tensor = tensors[name]
    action = pick(
        rng,
        (
            "removed",
            "renamed",
            "dtype",
            "shape",
            "rows",
            "empty",
            "scalar",
            "large",
            "nan",
            "inf",
            "huge",
            "extra",
        ),
    )
    if action == "removed":
        del tensors[name]
    elif action == "renamed":
        tensors[pick(rng, (f"{name}x", "networks", "vocabulary", "", "vocabulary.", "a.b.c"))] = tensors.pop(
            name
        )
    elif action == "dtype":
        kind = pick(rng, (torch.int64, torch.uint8, torch.bool, torch.float64, torch.bfloat16, torch.float16))
        tensors[name] = tensor.to(kind)
    elif action == "shape":
        tensors[name] = tensor.reshape(pick(rng, ((-1,), (1, -1), (*reversed(tensor.shape),))))
    elif action == "rows":
        tensors[name] = (
            tensor.reshape(-1)[: max(1, tensor.numel() // 2)] if tensor.ndim < 2 else tensor[:, :1]
        )
    elif action == "empty":
        tensors[name] = tensor.reshape(-1)[:0] if rng.random() < 0.5 or not tensor.ndim else tensor[:0]
    elif action == "scalar":
        tensors[name] = tensor.reshape(-1)[0]
    elif action == "large":
        tensors[name] = torch.zeros(
            pick(rng, ((1000, 1000), (4, 100_000), (1, 1, 1, 500_000))), dtype=tensor.dtype
        )
    elif action == "extra":
        tensors[pick(rng, ("vocabulary.more", "networks.more", "stray", "vocabulary.block_px"))] = (
            torch.zeros(3)
        )
    elif tensor.is_floating_point() and tensor.numel():
        value = {"nan": float("nan"), "inf": float("inf"), "huge": 6e4}[action]
        if rng.random() < 0.5:
            tensors[name] = torch.full_like(tensor, value)
        else:
            tensor.reshape(-1)[int(rng.integers(tensor.numel()))] = value
    return save({key: value.contiguous() for key, value in tensors.items()}, metadata), f"{name} {action}"
