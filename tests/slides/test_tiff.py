"""Every kind of TIFF is read as tifffile reads it whole."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
import tifffile

from comir_search.errors import ComirSearchError
from comir_search.opencv import cv2
from comir_search.slides import open_slide

from .conftest import halve, paint


def check_levels(slide, expected):
    assert len(slide.level_shapes) == len(expected)
    for number, level in enumerate(expected):
        height, width = level.shape[:2]
        assert slide.level_shapes[number] == (height, width)
        whole = slide.read_level(number, 0, 0, width, height)
        assert whole.dtype == level.dtype
        np.testing.assert_array_equal(whole, level)
        x, y = width // 3, height // 4
        part = slide.read_level(number, x, y, width // 2, height // 2)
        np.testing.assert_array_equal(part, level[y : y + height // 2, x : x + width // 2])


@pytest.mark.parametrize("flat", [False, True], ids=["sub-resolutions", "pages"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_pyramids(write_pyramid, flat, channels, dtype):
    image = paint(517, 613, channels, dtype)
    path = write_pyramid(image, flat=flat)
    levels = [image, halve(image), halve(halve(image))]
    with open_slide(path) as slide:
        check_levels(slide, levels)
        assert slide.channels == channels
        assert slide.level_downsamples == (1, 2, 4)
        assert slide.info.format == ("tiled TIFF pyramid" if flat else "OME-TIFF")
        assert slide.pixel_size_um == (None if flat else 0.5)


@pytest.mark.parametrize("ome", [True, False], ids=["OME", "generic"])
def test_planes_of_colour_apart(tmp_path, ome):
    image = paint(300, 260)
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    options = {"metadata": {"axes": "CYX"}} if ome else {}
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(
        path, planes, photometric="rgb", planarconfig="separate", tile=(64, 64), compression="zlib", **options
    )
    with open_slide(path) as slide:
        check_levels(slide, [image])
        assert slide.channels == 3


@pytest.mark.parametrize("axes", ["CYX", "ZYX", "TCZYX"])
def test_single_plane_of_a_stack(tmp_path, axes):
    image = paint(150, 260, 1, "uint16")
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, image.reshape((1,) * (len(axes) - 2) + image.shape), metadata={"axes": axes})
    with open_slide(path) as slide:
        check_levels(slide, [image])
        assert slide.channels == 1


def test_three_grey_channels_are_no_colour(tmp_path):
    image = paint(150, 260)
    path = tmp_path / "a.ome.tif"
    planes = np.ascontiguousarray(image.transpose(2, 0, 1))
    tifffile.imwrite(path, planes, photometric="minisblack", metadata={"axes": "CYX"}, tile=(64, 64))
    with pytest.raises(ComirSearchError, match=r"a.ome.tif contains 3 planes, 3 \(C\): save"):
        open_slide(path)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("rows", [1, 17, 1000])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_plain_strips(tmp_path, dtype, compression, rows, byteorder):
    image = paint(203, 151, 1, dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, compression=compression, rowsperstrip=rows, byteorder=byteorder)
    with open_slide(path) as slide:
        check_levels(slide, [image])


@pytest.mark.parametrize(
    ("compression", "predictor"),
    [
        (None, None),
        ("zlib", None),
        ("zlib", 2),
        ("zstd", 2),
        ("packbits", None),
        ("jpeg2000", None),
        ("webp", None),
    ],
)
def test_compressions_of_colour(tmp_path, compression, predictor):
    image = paint(203, 151)
    path = tmp_path / "a.tif"
    options = {"compression": compression, "predictor": predictor, "tile": (64, 48)}
    tifffile.imwrite(path, image, photometric="rgb", **options)
    with open_slide(path) as slide:
        check_levels(slide, [tifffile.imread(path)])


@pytest.mark.parametrize("tiled", [True, False])
def test_jpeg_agrees_with_tifffile(tmp_path, tiled):
    path = tmp_path / "a.tif"
    shape = {"tile": (64, 64)} if tiled else {"rowsperstrip": 32}
    tifffile.imwrite(path, paint(203, 151), photometric="rgb", compression="jpeg", **shape)
    with open_slide(path) as slide:
        check_levels(slide, [tifffile.imread(path)])


def test_alpha_is_dropped(tmp_path):
    image = paint(90, 70, 4)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", extrasamples=["unassalpha"])
    with open_slide(path) as slide:
        check_levels(slide, [image[..., :3]])


def test_one_bit_is_black_and_white(tmp_path):
    bits = paint(90, 71, 1) > 128
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, bits, photometric="minisblack")
    with open_slide(path) as slide:
        check_levels(slide, [bits.astype(np.uint8) * 255])


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_white_is_zero(tmp_path, dtype):
    image = paint(90, 71, 1, dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.iinfo(dtype).max - image, photometric="miniswhite")
    with open_slide(path) as slide:
        check_levels(slide, [image])


def test_palette(tmp_path):
    indices = paint(90, 71, 1)
    colours = np.random.default_rng(0).integers(0, 256, (3, 256)).astype(np.uint16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, indices, photometric="palette", colormap=colours * 257)
    with open_slide(path) as slide:
        check_levels(slide, [colours.T[indices].astype(np.uint8)])


def test_half_floats_are_widened(tmp_path):
    image = paint(90, 71, 1, "float32").astype(np.float16)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image)
    with open_slide(path) as slide:
        check_levels(slide, [image.astype(np.float32)])


def test_missing_tiles_are_background(tmp_path):
    image = paint(256, 256)
    path = tmp_path / "a.tif"
    tiles = [
        None if number == 5 else image[y : y + 64, x : x + 64].copy()
        for number, (y, x) in enumerate((y, x) for y in range(0, 256, 64) for x in range(0, 256, 64))
    ]
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=image.shape,
        dtype=image.dtype,
        tile=(64, 64),
        photometric="rgb",
        compression="zlib",
    )
    expected = image.copy()
    expected[64:128, 64:128] = 255
    with open_slide(path) as slide:
        check_levels(slide, [expected])


def test_levels_that_are_no_copies_are_left_out(tmp_path):
    image = paint(512, 400)
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for picture in (image, halve(image), paint(200, 256), halve(halve(image))):
            tiff.write(
                picture,
                photometric="rgb",
                tile=(64, 64),
                metadata=None,
                subfiletype=int(picture is not image),
            )
    with open_slide(path) as slide:
        assert slide.level_shapes == ((512, 400), (256, 200), (128, 100))


def test_odd_pyramid(tmp_path):
    """Steps of other than two, sides rounded either way."""
    image = paint(1001, 777)
    sides = [(777, 1001), (259, 334), (65, 84)]
    levels = [cv2.resize(image, side, interpolation=cv2.INTER_AREA) for side in sides]
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as tiff:
        for number, level in enumerate(levels):
            tiff.write(level, photometric="rgb", tile=(64, 64), metadata=None, subfiletype=min(number, 1))
    with open_slide(path, pixel_size_um=1.0) as slide:
        check_levels(slide, levels)
        assert slide.level_downsamples == (1, 3, 12)
        height, width = slide.scaled_shape(6.0)
        scaled = slide.read_scaled(6.0, 0, 0, width, height).astype(int)
        expected = cv2.resize(image[:996, :774], (129, 166), interpolation=cv2.INTER_AREA)
        assert np.abs(scaled[1:166, 1:129] - expected[1:, 1:]).max() < 12


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_pixels_lie_as_they_are_stored(tmp_path, orientation):
    """An orientation tag turns nothing, as in tifffile and napari: coordinates are those of the stored pixels."""
    image, path = paint(150, 200), tmp_path / "a.tif"
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), extratags=tags, metadata=None)
    with open_slide(path) as slide:
        check_levels(slide, [tifffile.imread(path)])


def test_one_huge_strip_is_read_in_parts(tmp_path):
    image, path = paint(3000, 500), tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb", rowsperstrip=3000, metadata=None)
    with open_slide(path) as slide:
        assert slide.tile_shapes[0][0] < 3000
        check_levels(slide, [tifffile.imread(path)])


def test_of_several_images_the_first_is_taken_and_that_is_said(tmp_path):
    path = tmp_path / "a.ome.tif"
    small, large = paint(60, 80), paint(200, 300)
    with tifffile.TiffWriter(path, ome=True) as tiff:
        tiff.write(
            small, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 9.0, "PhysicalSizeY": 9.0}
        )
        tiff.write(
            large, photometric="rgb", metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
        )
    with open_slide(path) as slide:
        check_levels(slide, [small])
        assert slide.pixel_size_um == 9.0
        assert any("1 of 2" in note for note in slide.info.notes)


@pytest.mark.parametrize("axes", ["ZYX", "TYX", "CYX"])
def test_stacks_are_refused(tmp_path, axes):
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, np.zeros((5, 40, 50), np.uint8), photometric="minisblack", metadata={"axes": axes})
    with pytest.raises(ComirSearchError, match=rf"a.ome.tif contains 5 planes, 5 \({axes[0]}\): save"):
        open_slide(path)


def test_many_samples_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 50, 6), np.uint8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(ComirSearchError, match="a.tif has 6 channels"):
        open_slide(path)


@pytest.mark.parametrize("photometric", ["separated", "cielab"])
def test_other_colours_are_refused(tmp_path, photometric):
    path = tmp_path / "a.tif"
    samples = 4 if photometric == "separated" else 3
    tifffile.imwrite(path, np.zeros((40, 50, samples), np.uint8), photometric=photometric)
    with pytest.raises(ComirSearchError, match="a.tif stores its colours as .*: save it as grey or RGB"):
        open_slide(path)


def test_complex_pixels_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((40, 50), np.complex64))
    with pytest.raises(ComirSearchError, match="a.tif stores pixels of a type"):
        open_slide(path)


def test_aperio(tmp_path):
    """An SVS: tiled levels, a thumbnail in strips between them, label and macro behind."""
    image = paint(1030, 900)
    path = tmp_path / "a.svs"
    about = "Aperio Image Library v12\r\n900x1030 (240x240) JPEG/RGB Q=30|AppMag = 40|MPP = 0.2525|X = 1"
    quarter = halve(halve(image))
    options = {"photometric": "rgb", "compression": "jpeg", "metadata": None}
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(image, tile=(240, 240), description=about, **options)
        tiff.write(paint(300, 262), rowsperstrip=16, description="Aperio Image Library v12\r\n", **options)
        tiff.write(quarter, tile=(240, 240), description="Aperio Image Library v12\r\n", **options)
        tiff.write(
            paint(60, 50), rowsperstrip=16, subfiletype=1, description="Aperio\r\nlabel 50x60", **options
        )
    with tifffile.TiffFile(path) as tiff:
        expected = [tiff.pages[0].asarray(), tiff.pages[2].asarray()]
    with open_slide(path) as slide:
        check_levels(slide, expected)
        assert slide.info.format == "Aperio SVS"
        assert (slide.pixel_size_um, slide.info.pixel_size_source) == (0.2525, "Aperio MPP")
        assert slide.level_downsamples == (1, 4)


def test_aperio_jpeg_2000_in_ycbcr(tmp_path):
    """Compression 33003 with chroma at full resolution, which decoders hand out unconverted."""
    image = paint(240, 480)
    luma_chroma = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]]
    tiles = [
        imagecodecs.jpeg2k_encode(
            np.ascontiguousarray(luma_chroma[:, x : x + 240]), codecformat="j2k", mct=False, reversible=True
        )
        for x in (0, 240)
    ]
    path = tmp_path / "a.svs"
    options = {"shape": image.shape, "dtype": "uint8", "tile": (240, 240), "metadata": None}
    tifffile.imwrite(
        path,
        iter(tiles),
        compression=33003,
        photometric="rgb",
        description="Aperio Image Library v12",
        **options,
    )
    with open_slide(path) as slide:
        assert np.abs(slide.read_level(0, 0, 0, 480, 240).astype(int) - image).max() <= 2
