"""Time the shipped network against the published one (Tiramisu) on the same image, in one run.

    python tests/benchmarks/bench_network.py [--side 1024] [--threads 1] [--repeats 3] [--device cpu]

The networks take turns, and the best of the repeats counts, in processor seconds a thread (on a GPU: wall
clock), so that other jobs disturb little. The peak is what a large matrix product reaches in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from comir_search.model.embedding import code
from comir_search.model.model import load_model
from comir_search.model.networks import build_network, count_macs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=1024, help="side of the image, px")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--modality", default="bf")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    model = load_model(None, args.device)
    channels = model.channels_of(args.modality)
    shipped = model.network(args.modality)
    published = build_network("tiramisu", channels, model.comir_channels).eval().to(args.device)
    image = torch.rand(1, channels, args.side, args.side, device=args.device)
    last = image.contiguous(memory_format=torch.channels_last)

    def half() -> Tensor:
        with torch.autocast(args.device, torch.bfloat16):
            return shipped(last)

    def plain() -> Tensor:
        return model.networks[args.modality](image)

    side = 4096 if args.device == "cuda" else 2048
    factor = torch.rand(side, side, device=args.device)
    runs: dict[str, Callable[[], Tensor]] = {
        "matrix product": lambda: factor @ factor,
        "published (Tiramisu)": lambda: published(image),
        "compact, as trained": plain,
        "compact, as shipped": lambda: shipped(last),
        "compact, bfloat16": half,
    }
    clock = time.perf_counter if args.device == "cuda" else time.process_time
    best = dict.fromkeys(runs, float("inf"))
    with torch.inference_mode():
        for _ in range(args.repeats):
            for name, run in runs.items():
                began = clock()
                run()
                if args.device == "cuda":
                    torch.cuda.synchronize()
                best[name] = min(
                    best[name], (clock() - began) / (1 if args.device == "cuda" else args.threads)
                )
        exact, rounded = (
            code(latents[0].float().cpu().numpy()).astype(int) for latents in (shipped(last), half())
        )
    peak = 2 * side**3 / best.pop("matrix product")
    print(f"peak {peak / 1e9:.0f} GFLOP/s (float32 matrix product), {args.threads} thread(s), {args.device}")
    megapixels = args.side**2 / 1e6
    for name, seconds in best.items():
        macs = count_macs(
            published.cpu() if "Tira" in name else model.networks[args.modality].cpu(), channels
        )
        flops = 2 * macs * args.side**2 / seconds
        print(
            f"{name:22} {megapixels / seconds:8.3f} Mpx/s  {macs / 1e3:6.1f} kMAC/px  {flops / peak:4.0%} of peak"
            f"  {best['published (Tiramisu)'] / seconds:6.1f}x"
        )
    off = abs(exact - rounded)
    print(f"bfloat16 moves codes by {off.mean():.2f} grey levels on average, at most {off.max()}")


if __name__ == "__main__":
    main()
