"""Pictures: only what can be read rightly is read."""

import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from mask_former.data.reading import (
    check_size_of_file,
    read_header,
    read_ids,
    read_image,
    read_labels,
    read_lossless,
    read_size,
)
from mask_former.errors import UserError

HEIGHT, WIDTH = 12, 16


def save(path, values, **options):
    Image.fromarray(values).save(path, **options)
    return str(path)


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_grey_values_of_16_bits_are_scaled(tmp_path):
    values = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    for name in ("x.png", "x.tif"):
        image = read_image(save(tmp_path / name, values), "RGB")
        assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == np.uint8
        assert np.array_equal(image[..., 0], np.round(values / 257).astype(np.uint8))


def test_grey_values_of_16_bits_in_pgm(tmp_path):
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">HH", 257 * 7, 65535))
    assert read_image(tmp_path / "x.pgm", "RGB").tolist() == [[[7] * 3, [255] * 3]]


def test_of_several_frames_the_first_is_the_picture(tmp_path, noise):
    frames = {"save_all": True, "append_images": [Image.fromarray(255 - noise)]}
    for name in ("x.png", "x.tif"):
        assert np.array_equal(read_image(save(tmp_path / name, noise, **frames), "RGB"), noise)
    other = {"save_all": True, "append_images": [Image.fromarray(255 - noise[..., 0])]}
    for name in ("x.gif", "x.tif"):
        with pytest.raises(UserError, match=f"{name} has 2 frames, but a label map is one"):
            read_labels(save(tmp_path / name, noise[..., 0], **other))


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_pixels_without_a_known_white_are_refused(tmp_path, kind):
    path = save(tmp_path / "x.tif", np.ones((HEIGHT, WIDTH), dtype=kind))
    with pytest.raises(UserError, match=r"x\.tif has pixels of .*Convert it"):
        read_image(path, "RGB")


@pytest.mark.parametrize(
    "read", [lambda p: read_image(p, "RGB"), read_labels, read_header, read_ids]
)
def test_no_program_is_started(tmp_path, monkeypatch, read):
    """PIL runs Ghostscript on PostScript, whatever the file is called."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\necho 10.0\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    path = tmp_path / "photo.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\n%%EOF\n")
    with pytest.raises(UserError, match=r"photo\.jpg cannot be read as an image"):
        read(path)
    assert not (tmp_path / "ran").exists()


def test_size_is_checked_before_pixels_are_decoded(tmp_path, noise, monkeypatch):
    path = save(tmp_path / "x.png", noise)
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"x\.png is 16 x 12 .* its record says 9 x 8"):
        read_image(path, "RGB", size=(8, 9))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with pytest.raises(UserError, match="DecompressionBomb"):
        read_image(path, "RGB")
    with pytest.raises(UserError, match="too many"):
        read_ids(path)


TURNED = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, 3),
    7: lambda pixels: np.rot90(pixels.swapaxes(0, 1), 2),
    8: lambda pixels: np.rot90(pixels, 1),
    9: lambda pixels: pixels,  # there is no such orientation
}


@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif(tmp_path, noise, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / name, noise, exif=exif)
    turned = read_image(path, "RGB")
    bare = read_image(path, "RGB", exif=False)
    assert np.array_equal(turned, TURNED[orientation](bare))
    assert np.array_equal(bare, noise) or name in ("x.jpg", "x.webp")  # which are lossy
    header = read_header(path)
    assert header.shown(exif=True) == turned.shape[:2] and header.shown(False) == (HEIGHT, WIDTH)
    check_size_of_file(path, header, turned.shape[:2], exif=True)


@pytest.mark.parametrize("name", ["x.png", "x.tif"])
def test_annotations_are_not_turned(tmp_path, noise, name):
    """Tools copy the EXIF of the image; the labels were drawn as they are in the file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / name, noise[..., 0], exif=exif)
    assert np.array_equal(read_labels(path), noise[..., 0])
    assert read_size(path) == (HEIGHT, WIDTH)
    palette = Image.fromarray(noise[..., 0])
    palette.putpalette(list(range(256)) * 3)
    palette.save(path, exif=exif)
    assert np.array_equal(read_labels(path), noise[..., 0])
    ids = read_ids(save(tmp_path / "ids.png", noise, exif=exif))
    assert np.array_equal(ids, noise.astype(int) @ [1, 256, 65536])


@pytest.mark.parametrize("exif", [True, False])
def test_exif_is_named_where_sizes_differ(tmp_path, noise, exif):
    tag = Image.Exif()
    tag[0x0112] = 6
    path = save(tmp_path / "x.jpg", noise, exif=tag)
    size = (HEIGHT, WIDTH) if exif else (WIDTH, HEIGHT)
    with pytest.raises(UserError, match=f"EXIF orientation.* INPUT.EXIF_ORIENTATION {not exif}"):
        read_image(path, "RGB", size=size, exif=exif)


@pytest.mark.parametrize(
    ("name", "options"),
    [("x.jpg", {}), ("x.webp", {}), ("x.tif", {"compression": "jpeg"})],
)
def test_label_maps_in_lossy_formats_are_refused(tmp_path, noise, name, options):
    path = save(tmp_path / name, noise[..., 0], **options)
    with pytest.raises(UserError, match=f"{name} is .*Make label maps again, as PNG"):
        read_labels(path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("x.png", np.uint8), ("x.png", np.uint16), ("x.tif", np.uint16), ("x.bmp", np.uint8)],
)
def test_label_maps_are_read_as_they_are(tmp_path, noise, name, kind):
    values = noise[..., 0].astype(kind) * (np.iinfo(kind).max // 255)
    assert np.array_equal(read_labels(save(tmp_path / name, values)), values)


def png(depth, color, width, row):
    """A PNG of one row, which has the given bytes."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, color, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b"")


def set_tiff_tag(path, tag, value):
    """Overwrite the value of a tag that has one number of 16 bits."""
    data, start = path.read_bytes(), struct.pack("<HHI", tag, 3, 1)
    assert data.count(start) == 1
    place = data.index(start) + len(start)
    path.write_bytes(data[:place] + struct.pack("<H", value) + data[place + 2 :])


def test_label_maps_of_fewer_bits(tmp_path):
    """PIL reads grey values of 2 bits, 1, 2, 3, as 85, 170, 255."""
    path = tmp_path / "x.png"
    path.write_bytes(png(2, 0, 4, bytes([0b00011011])))
    assert read_image(path, "RGB")[0, :, 0].tolist() == [0, 85, 170, 255]
    with pytest.raises(UserError, match=r"x\.png has fewer than 8 bits"):
        read_labels(path)
    path = tmp_path / "x.tif"
    save(path, np.ones((HEIGHT, WIDTH), np.uint8))
    set_tiff_tag(path, 258, 4)
    with pytest.raises(UserError, match=r"x\.tif has fewer than 8 bits"):
        read_labels(path)


def test_label_maps_of_16_bit_channels(tmp_path):
    """Of these PIL keeps the upper byte: class 0 everywhere."""
    labels = np.arange(HEIGHT * WIDTH, dtype=np.uint16).reshape(HEIGHT, WIDTH)
    for name, channels in (("rgb.png", 3), ("rgba.png", 4), ("rgb.tif", 3)):
        cv2.imwrite(str(tmp_path / name), np.dstack([labels] * channels))
    (tmp_path / "la.png").write_bytes(png(16, 4, 1, struct.pack(">HH", 3, 65535)))
    (tmp_path / "rgb.ppm").write_bytes(b"P6 1 1 65535\n" + struct.pack(">HHH", 3, 3, 3))
    for name in ("rgb.png", "rgba.png", "rgb.tif", "la.png"):
        with pytest.raises(UserError, match=f"{name} has several channels of 16 bits.*8 or 16"):
            read_lossless(tmp_path / name)
    with pytest.raises(UserError, match=r"rgb\.ppm has the largest value 65535"):
        read_lossless(tmp_path / "rgb.ppm")


def test_label_maps_that_say_which_value_is_white(tmp_path):
    """PIL scales values so that this becomes 255, or 65535."""
    path = tmp_path / "x.pgm"
    for header, values in (
        (b"P5 2 1 1", b"\0\1"),
        (b"P2 2 1 3", b"1 2\n"),
        (b"P2 2 1 300", b"1 2\n"),
    ):
        path.write_bytes(header + b"\n" + values)
        with pytest.raises(UserError, match=r"x\.pgm has the largest value .*as PNG"):
            read_labels(path)
    for header, values in (
        (b"P5 2 1 255", b"\1\2"),
        (b"P5 2 1 65535", b"\0\1\0\2"),
        (b"P2 2 1 255", b"1 2\n"),
    ):
        path.write_bytes(header + b"\n" + values)
        assert read_labels(path).tolist() == [[1, 2]]


def test_planes_of_16_bits_are_refused(tmp_path):
    """PIL takes each for one of 8 bits, whose pixels are the halves of half of the others."""
    path = tmp_path / "x.tif"
    cv2.imwrite(str(path), np.zeros((HEIGHT, WIDTH, 3), np.uint16))
    assert read_image(path, "RGB").shape == (HEIGHT, WIDTH, 3)
    set_tiff_tag(path, 284, 2)
    with pytest.raises(UserError, match=r"x\.tif has 16-bit channels one after another"):
        read_image(path, "RGB")


@pytest.mark.parametrize(
    "values",
    [np.ones((HEIGHT, WIDTH), np.uint8), np.ones((HEIGHT, WIDTH), np.uint16)],
)
def test_panoptic_png_of_grey_values(tmp_path, values):
    with pytest.raises(UserError, match=r"x\.png has grey values of (8|16) bits"):
        read_ids(save(tmp_path / "x.png", values))


def test_panoptic_png_of_16_bits(tmp_path):
    cv2.imwrite(str(tmp_path / "x.png"), np.full((HEIGHT, WIDTH, 3), 300, dtype=np.uint16))
    with pytest.raises(UserError, match=r"x\.png has colours of 16 bits"):
        read_ids(tmp_path / "x.png")


def test_panoptic_file_that_is_no_png(tmp_path, noise):
    with pytest.raises(UserError, match=r"x\.jpg cannot be read.*no PNG"):
        read_ids(save(tmp_path / "x.jpg", noise))
    palette = Image.fromarray(noise).quantize(8)
    palette.save(tmp_path / "x.png")
    colors = np.asarray(palette.convert("RGB")).astype(int)
    assert np.array_equal(read_ids(tmp_path / "x.png"), colors @ [1, 256, 65536])
