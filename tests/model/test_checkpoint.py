"""Published CoMIR checkpoints: read without running them, equal to the same weights in our network."""

import io
import os
import pickle
import sys
import tracemalloc
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from comir_search.errors import ComirSearchError
from comir_search.model.checkpoint import find_tensors, import_checkpoint, read_checkpoint
from comir_search.model.model import load_model
from comir_search.model.pickled import Damaged, StandIn


# A network with the names and the structure of the published ones, written for this test.
class Biomedical:
    n_layers, n_bottleneck, dropout = 4, 4, 0.2
    first, n_head = 32, 176
    widths_down = ((32, 60), (60, 81), (81, 96), (96, 108), (108, 117), (117, 123))
    widths_up = ((48, 213), (48, 204), (48, 192), (48, 177), (48, 156), (48, 128))


class Aerial:
    n_layers, n_bottleneck, dropout = 2, 3, 0
    first, n_head = 16, 88
    widths_down = ((16, 40), (40, 64), (64, 88))
    widths_up = ((36, 124), (24, 88), (24, 64))


class DenseLayer(nn.Module):
    def __init__(self, n_in):
        super().__init__()
        self.dropout, self.efficient, self.has_bn = 0.2, True, True
        self.batchnorm = nn.BatchNorm2d(n_in)
        self.relu = nn.ReLU(True)
        self.conv = nn.Conv2d(n_in, 12, 3, padding=1)

    def forward(self, x):
        return self.conv(self.relu(self.batchnorm(x)))


class DenseBlock(nn.Module):
    def __init__(self, n_in, n_layers, upsample):
        super().__init__()
        self.layers = nn.ModuleList([DenseLayer(n_in + 12 * i) for i in range(n_layers)])
        self.upsample = upsample

    def forward(self, x):
        parts = [x]
        for layer in self.layers:
            parts.append(layer(torch.cat(parts, 1)))
        return torch.cat(parts[1:] if self.upsample else parts, 1)


class TransitionDown(nn.Sequential):
    def __init__(self, n_in, n_out, dropout):
        super().__init__()
        self.add_module("batchnorm", nn.BatchNorm2d(n_in))
        self.add_module("relu", nn.ReLU(inplace=True))
        self.add_module("conv", nn.Conv2d(n_in, n_out, 1))
        if dropout:
            self.add_module("dropout", nn.Dropout2d(0.2))
        self.add_module("pool", nn.MaxPool2d(2))


class TransitionUp(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.upsampling_layer = nn.Sequential(
            nn.UpsamplingNearest2d(scale_factor=2), nn.Conv2d(n, n, 3, padding=1), nn.ReLU(inplace=True)
        )


class ModNet(nn.Module):
    def __init__(self, n_in, n_out=1, shape=Biomedical):
        super().__init__()
        n = shape.n_layers
        self.activation_func, self.activation_kwargs, self.down_blocks = None, {}, (n,) * len(shape.widths_up)
        self.conv_init = nn.Conv2d(n_in, shape.first, 3, padding=1)
        self.layers_down = nn.ModuleList([DenseBlock(width, n, False) for width, _ in shape.widths_down])
        self.transitions_down = nn.ModuleList(
            [TransitionDown(width + 12 * n, out, shape.dropout) for width, out in shape.widths_down]
        )
        self.bottleneck = DenseBlock(shape.widths_down[-1][1], shape.n_bottleneck, True)
        self.transitions_up = nn.ModuleList([TransitionUp(width) for width, _ in shape.widths_up])
        last = len(shape.widths_up) - 1
        self.layers_up = nn.ModuleList(
            [DenseBlock(width, n, level != last) for level, (_, width) in enumerate(shape.widths_up)]
        )
        self.final_conv = nn.Conv2d(shape.n_head, n_out, 1, bias=False)
        if shape is Biomedical:
            self.log_transform = n_in == 1

    def forward(self, x):
        x, skips = self.conv_init(x), []
        for dense, down in zip(self.layers_down, self.transitions_down, strict=True):
            x = dense(x)
            skips.append(x)
            x = down(x)
        x = self.bottleneck(x)
        for up, dense in zip(self.transitions_up, self.layers_up, strict=True):
            x = dense(torch.cat([skips.pop(), up.upsampling_layer(x)], 1))
        return self.final_conv(x)


@pytest.fixture
def classes(monkeypatch):
    """The published classes, where the published code had them."""
    package, models = types.ModuleType("models"), types.ModuleType("models.tiramisu")
    for module in (package, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for layer in (DenseLayer, DenseBlock, TransitionDown, TransitionUp):
        monkeypatch.setattr(layer, "__module__", "models.tiramisu")
        setattr(models, layer.__name__, layer)
    monkeypatch.setattr(ModNet, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "ModNet", ModNet, raising=False)


@pytest.fixture
def published(classes):
    """Both biomedical networks."""
    return {"modelA": enliven(ModNet(1)), "modelB": enliven(ModNet(3))}


def enliven(network):
    """Give a network the statistics, and outputs of the size, that a trained one has."""
    random = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=random)
            module.running_var.uniform_(0.5, 1.5, generator=random)
    with torch.no_grad():
        network.eval().final_conv.weight *= 10
    return network


def save(content, path, zipped):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_imported_networks_equal_the_published_ones(published, tmp_path, zipped):
    path = save(published, tmp_path / "model.pt", zipped)
    model = import_checkpoint(path, pixel_size_um=1.5)
    model.save(tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors", "cpu")
    assert (model.architecture, model.comir_channels, model.pixel_size_um) == ("tiramisu", 1, 1.5)
    assert model.modality("shg").intensity == "log_full_scale"
    assert model.modality("bf").intensity == "full_scale"
    for key, side, channels in (("modelA", "shg", 1), ("modelB", "bf", 3)):
        image = torch.rand(1, channels, 64, 128)
        with torch.inference_mode():
            torch.testing.assert_close(model.network(side)(image), published[key](image), atol=1e-4, rtol=0)


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_imported_aerial_networks_equal_the_published_ones(classes, tmp_path, zipped):
    networks = {"modelA": enliven(ModNet(3, 3, Aerial)), "modelB": enliven(ModNet(1, 3, Aerial))}
    assert sum(weights.numel() for weights in networks["modelA"].parameters()) == 165_064
    model = import_checkpoint(save(networks, tmp_path / "zurich.pt", zipped), pixel_size_um=2.0)
    model.save(tmp_path / "model.safetensors")
    model = load_model(tmp_path / "model.safetensors", "cpu")
    assert (model.architecture, model.comir_channels, model.tile_multiple) == ("tiramisu-aerial", 3, 8)
    for key, side, channels in (("modelA", "colour", 3), ("modelB", "nir", 1)):
        assert model.modality(side).intensity == "full_scale"
        image = torch.rand(1, channels, 64, 40)
        with torch.inference_mode():
            torch.testing.assert_close(model.network(side)(image), networks[key](image), atol=1e-4, rtol=0)


def test_state_dicts_and_three_channels_are_imported(published, tmp_path):
    networks = {"modelA": ModNet(1, 3).state_dict(), "modelB": ModNet(3, 3).state_dict()}
    path = save(networks, tmp_path / "states.pt", True)
    assert import_checkpoint(path, pixel_size_um=1.0).comir_channels == 3


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_tensors_come_back_as_saved(tmp_path, zipped):
    base = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    content = {"view": base[1:, ::2].T, "half": base.half(), "flags": base > 3, "list": [1, "two", None, {3}]}
    loaded = read_checkpoint(save(content, tmp_path / "tensors.pt", zipped))
    for name in ("view", "half", "flags"):
        assert torch.equal(loaded[name], content[name]) and loaded[name].dtype == content[name].dtype
    assert loaded["list"] == content["list"]


class Hostile:
    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


HOSTILE = [
    (Hostile(os.system, "echo run > {}"), "system"),
    (Hostile(eval, "open('{}', 'w')"), "eval"),
    (Hostile(exec, "open('{}', 'w')"), "exec"),
    (Hostile(getattr, "text", "upper"), "getattr"),
    (Hostile(torch.load, "{}"), "torch.serialization.load"),
]


@pytest.mark.parametrize(("hostile", "name"), HOSTILE, ids=[name for _, name in HOSTILE])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_hostile_pickle_is_refused_by_name(tmp_path, hostile, name, zipped):
    mark = tmp_path / "mark"
    call, arguments = hostile.reduced
    arguments = [part.format(mark) if isinstance(part, str) else part for part in arguments]
    path = save({"modelA": Hostile(call, *arguments), "modelB": 1}, tmp_path / "hostile.pt", zipped)
    with pytest.raises(ComirSearchError, match=name):
        read_checkpoint(path)
    assert not mark.exists()


def test_known_name_in_an_unknown_module_is_refused(tmp_path):
    path = tmp_path / "hostile.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"cevil.tiramisu\nModNet\n.")
    with pytest.raises(ComirSearchError, match=r"evil\.tiramisu\.ModNet"):
        read_checkpoint(path)


def test_stand_ins_are_inert():
    stand_in = StandIn(
        "ModNet", {"_parameters": {"weight": torch.ones(1)}, "_modules": None, "tensors": print}
    )
    assert list(find_tensors(stand_in)) == ["weight"]
    assert not callable(stand_in) and not hasattr(stand_in, "tensors")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_truncated_file_is_refused(published, tmp_path, zipped):
    path = save({"modelA": torch.ones(1000), "modelB": torch.ones(9)}, tmp_path / "model.pt", zipped)
    path.write_bytes(path.read_bytes()[:2500])
    with pytest.raises(ComirSearchError, match="damaged"):
        read_checkpoint(path)


def test_tensor_outside_its_storage_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save(torch.ones(4), buffer)
    with zipfile.ZipFile(buffer) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    # The pickled size (4,) becomes (200,): K\x04 is a one-byte integer, \x85 a tuple of it.
    members[name] = members[name].replace(b"K\x04\x85", b"K\xc8\x85")
    path = tmp_path / "tensor.pt"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    with pytest.raises(ComirSearchError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"modelA": 1})])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ComirSearchError, match=r"model\.pt is not a PyTorch checkpoint"):
        read_checkpoint(path)


def test_other_networks_are_refused(tmp_path, published):
    published["modelA"].conv_init = nn.Conv2d(1, 16, 3)
    with pytest.raises(ComirSearchError, match=r"modelA of .* published configuration"):
        import_checkpoint(save(published, tmp_path / "other.pt", True), pixel_size_um=1.0)
    with pytest.raises(ComirSearchError, match="contains no CoMIR networks"):
        import_checkpoint(save([1, 2], tmp_path / "list.pt", True), pixel_size_um=1.0)
    both_grey = {"modelA": ModNet(1).state_dict(), "modelB": ModNet(1).state_dict()}
    with pytest.raises(ComirSearchError, match="not for grey and RGB images"):
        import_checkpoint(save(both_grey, tmp_path / "grey.pt", True), pixel_size_um=1.0)


def test_networks_of_two_kinds_are_refused(tmp_path):
    states = {"modelA": ModNet(1).state_dict(), "modelB": ModNet(3, 1, Aerial).state_dict()}
    with pytest.raises(ComirSearchError, match="do not belong together"):
        import_checkpoint(save(states, tmp_path / "mixed.pt", True), pixel_size_um=1.0)


# Files of a few bytes that asked for seconds or gigabytes, or that describe nothing.
BUILD = b"cmodels.tiramisu\nDenseBlock\n)\x81"
PROGRAMS = {
    "memo of gigabytes": (b"Nr\xff\xff\xff\x7f.", "no PyTorch|no CoMIR"),
    "more objects than the file": (b"(" + b"}" * 500_000 + b"l.", "400,000 objects"),
    "copies": (
        b"(" + b"N" * 9_000 + b"tq\x000" + b"ctorch\nSize\nh\x00\x85R0" * 60 + b"N.",
        "400,000 objects",
    ),
    "text longer than the file": (b"X\xff\xff\xff\x7fabc.", "damaged"),
    "bytes longer than the file": (b"\x8e" + (2**60).to_bytes(8, "little") + b"abc.", "damaged"),
    "a number of many digits": (b"I" + b"9" * 200_000 + b"\n.", "damaged"),
    "keys that collide": (b"}\x8a\x08" + (2**61 - 1).to_bytes(8, "little") + b"Ns.", "a key of the type int"),
    "a list as key": (b"}]Ns.", "a key of the type list"),
    "half a pair": (b"}(Nu.", "a value is missing"),
    "no object": (b".", "an object is missing"),
    "a mark alone": (b"(.", "an object is missing"),
    "no end": (b"N" * 100, "damaged"),
    "an object that is not there": (b"h\x07.", "refers to an object"),
    "a tensor without a storage": (b"ctorch._utils\n_rebuild_tensor_v2\n(NI0\n))tR.", "no storage"),
    "a parameter without a tensor": (b"ctorch._utils\n_rebuild_parameter\nN\x85R.", "no tensor"),
    "a call of data": (b"NNR.", "arguments are missing"),
    "a class that is called on": (BUILD + b")R.", "a call of something"),
    "a state of data": (b"]}b.", "a state for an object"),
    "another operation": (b"(ios\nsystem\n.", "the operation INST"),
    "a name of two lines": (b"\x80\x04\x8c\x03a\nb\x8c\x01c\x93.", r"a b\.c"),
    "a name without end": (b"c" + b"x" * 5000 + b"\ny\n.", "x…"),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_pickles_that_ask_for_more_than_they_hold_are_refused(tmp_path, name, zipped):
    program, words = PROGRAMS[name]
    path = tmp_path / "hostile.pt"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", program)
    else:
        head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join(head) + program + pickle.dumps([], 2))
    tracemalloc.start()
    with pytest.raises(ComirSearchError, match=words) as refused:
        import_checkpoint(path, pixel_size_um=1.0)
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 600


def test_each_module_is_visited_once():
    module = StandIn("DenseBlock", {"_parameters": {"weight": torch.ones(1)}})
    for _ in range(30):
        module = StandIn("DenseBlock", {"_modules": {"a": module, "b": module}})
    module.attributes["_modules"]["self"] = module
    (name,) = find_tensors(module)  # and not 2 ** 30 of them
    assert name.endswith(".weight") and name.count(".") == 30


def test_modules_without_end_are_refused(tmp_path):
    module = StandIn("DenseBlock")
    for _ in range(100):
        module = StandIn("DenseBlock", {"_modules": {"a": module}})
    with pytest.raises(Damaged, match="too deeply"):
        find_tensors(module)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1, dtype=torch.float16).expand(30_000, 30_000),
        torch.zeros(4).expand(5, 4),
        torch.arange(10.0).as_strided((7, 4), (1, 1)),
    ],
    ids=["two gigabytes of two bytes", "rows", "overlapping"],
)
def test_a_tensor_larger_than_its_storage_is_refused(tmp_path, tensor, zipped):
    path = save({"modelA": {"conv_init.weight": tensor}, "modelB": {}}, tmp_path / "stride0.pt", zipped)
    with pytest.raises(ComirSearchError, match="larger than its data in the file"):
        import_checkpoint(path, pixel_size_um=1.0)


def test_compressed_parts_are_refused(tmp_path):
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"N" * 100_000_000)
    with pytest.raises(ComirSearchError, match="its parts are compressed"):
        read_checkpoint(path)


def test_a_storage_larger_than_the_file_is_refused(tmp_path):
    path = save({"a": torch.zeros(9)}, tmp_path / "large.pt", False)
    path.write_bytes(path.read_bytes().replace(b"K\x09", b"J\xff\xff\xff\x7f"[:5], 1))
    with pytest.raises(ComirSearchError, match="storages are larger than the file"):
        read_checkpoint(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path, published):
    with torch.no_grad():
        published["modelA"].conv_init.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ComirSearchError, match=r"modelA of .* contains impossible values in stem\.weight"):
        import_checkpoint(save(published, tmp_path / "nan.pt", True), pixel_size_um=1.0)


def test_a_pixel_size_that_no_model_has_is_refused(tmp_path):
    with pytest.raises(ComirSearchError, match="works at 0.02 to 100 um"):
        import_checkpoint(tmp_path / "any.pt", pixel_size_um=1e6)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(ComirSearchError, match="not a regular file"):
        read_checkpoint(tmp_path / "pipe.pt")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "stream"])
def test_broken_bytes_are_refused_in_words(tmp_path, zipped):
    """A short form of tests/benchmarks/fuzz.py."""
    small = {
        "modelA": {"conv_init.weight": torch.ones(2, 3)},
        "modelB": [torch.ones(3).half(), {"x": (1, None)}],
    }
    path = save(small, tmp_path / "model.pt", zipped)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    for number in range(300):
        broken = bytearray(content)
        for at in rng.integers(len(content) // (1 + number % 2), size=1 + number % 3):
            broken[at] = int(rng.integers(256))
        path.write_bytes(broken if number % 10 else broken[: int(rng.integers(len(broken)))])
        with pytest.raises(ComirSearchError, match="model.pt"):
            import_checkpoint(path, pixel_size_um=1.0)


def test_missing_file():
    with pytest.raises(ComirSearchError, match="does not exist"):
        read_checkpoint("nowhere.pt")


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_command_converts(published, tmp_path, command):
    path = save(published, tmp_path / "model.pt", False)
    answer = command("import-model", path, "--out", tmp_path / "out.safetensors", "--pixel-size", "0.5")
    assert answer.code == 0 and "0.5 um" in answer.out
    assert load_model(tmp_path / "out.safetensors").pixel_size_um == 0.5
    answer = command("import-model", tmp_path / "absent.pt", "--out", tmp_path / "none.safetensors")
    assert (
        answer.code == 1 and "absent.pt" in answer.sentence and not (tmp_path / "none.safetensors").exists()
    )
