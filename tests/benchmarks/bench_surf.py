"""Time dense SURF against OpenCV's on the same grid, in one run.

The last OpenCV wheel with SURF is 3.4.2.17 for Python 3.7:

    python3.7 -m venv /tmp/surf && /tmp/surf/bin/pip install opencv-contrib-python==3.4.2.17
    python tests/benchmarks/bench_surf.py --reference-python /tmp/surf/bin/python
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from comir_search.matching.surf import surf_maps

REFERENCE = """
import json, sys, time
import cv2, numpy as np
image, step, blocks = np.load(sys.argv[1]), 8, (32, 64, 96, 128)
threads, repeats = int(sys.argv[2]), int(sys.argv[3])
cv2.setNumThreads(threads)
surf = cv2.xfeatures2d.SURF_create(upright=True)
seconds = []
for _ in range(repeats):
    started = time.perf_counter()
    count = 0
    for block in blocks:
        points = [cv2.KeyPoint(x, y, block / 20 * 9 / 1.2)
                  for y in range(4, image.shape[0] - 3, step) for x in range(4, image.shape[1] - 3, step)]
        count += len(surf.compute(image, points)[1])
    seconds.append(time.perf_counter() - started)
print(json.dumps({"version": cv2.__version__, "seconds": min(seconds), "descriptors": count}))
"""


def main():
    """Print both times and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reference-python", required=True, help="interpreter that has OpenCV with SURF")
    parser.add_argument("--side", type=int, default=1024, help="side of the image, px")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    side = arguments.side
    image = np.random.default_rng(0).integers(0, 256, (side, side), np.uint8)
    unit_image = image.astype(np.float32) / 255
    surf_maps(unit_image)
    seconds = []
    for _ in range(arguments.repeats):
        started = time.perf_counter()
        count = surf_maps(unit_image)[..., 0].size
        seconds.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "image.npy")
        np.save(path, image)
        answer = subprocess.run(
            [
                arguments.reference_python,
                "-c",
                REFERENCE,
                path,
                str(arguments.threads),
                str(arguments.repeats),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
    reference = json.loads(answer.stdout)
    assert reference["descriptors"] == count
    megapixels = side * side / 1e6
    for name, taken in [
        ("comir_search", min(seconds)),
        (f"OpenCV {reference['version']}", reference["seconds"]),
    ]:
        print(f"{name:16} {taken:7.3f} s  {megapixels / taken:6.2f} Mpx/s  {count} descriptors")
    print(f"ratio {reference['seconds'] / min(seconds):.1f}x on {arguments.threads} thread(s)")


if __name__ == "__main__":
    main()
