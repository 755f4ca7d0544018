"""Pictures at the edge: what is read, what is refused, and what goes out."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from server.errors import ImageTooLarge, InvalidImage, PlaitError, UnsupportedParameter
from server.messages import Picture
from server.serving.asks import PictureFormat, PicturePart
from server.serving.pictures import PictureLimits, data_uri, encode_picture, input_segment, read_picture
from tests.server.picture_files import encoded_picture, picture_uri, png_header, uri
from tests.server.running_front import golden_model

LIMITS = PictureLimits(max_bytes=200_000, max_pixels=250_000, max_side=2_000, max_proportion=8)


def read(url: str) -> Image.Image:
    return read_picture(PicturePart(url, "messages[0].content[1]"), LIMITS)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_of_each_format_is_read(file_format: str) -> None:
    image = read(picture_uri(40, 30, file_format))
    assert image.size == (40, 30) and image.mode == "RGB"


def test_transparency_becomes_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, "PNG")
    assert read(uri(buffer.getvalue())).getpixel((0, 0)) == (255, 255, 255)


def animated(file_format: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, file_format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PNG = encoded_picture(64, 64, "PNG")


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("https://example.com/cat.png", UnsupportedParameter, "does not fetch"),
        ("HTTP://169.254.169.254/", UnsupportedParameter, "does not fetch"),
        ("file:///etc/passwd", InvalidImage, "data URI"),
        ("data:image/png,abc", InvalidImage, "data URI"),
        ("data:image/png;base64,@@@@", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0KGgo", InvalidImage, "base64"),
        ("data:image/png;base64,", InvalidImage, "no PNG, JPEG or WebP"),
        (uri(b"GIF89a" + bytes(64)), InvalidImage, "no PNG, JPEG or WebP"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), InvalidImage, "no PNG, JPEG or WebP"),
        (uri(PNG[: len(PNG) // 2]), InvalidImage, "broken or truncated"),
        (uri(PNG[:20]), InvalidImage, "broken or truncated"),
        (uri(b"\xff\xd8\xff" + bytes(100)), InvalidImage, "broken or truncated"),
        (uri(animated("PNG")), InvalidImage, "animated"),
        (uri(animated("WEBP")), InvalidImage, "animated"),
        (uri(png_header(40_000, 40_000)), ImageTooLarge, "250000"),
        (uri(png_header(3_000, 3_000)), ImageTooLarge, "2000"),
        (uri(png_header(1_000, 1_000)), ImageTooLarge, "250000"),
        (uri(png_header(1_000, 10)), ImageTooLarge, "8 times"),
        (uri(bytes(200_003)), ImageTooLarge, "200000 bytes"),
    ],
)
def test_what_is_no_readable_picture_is_refused_by_name_and_bound(url: str, kind: type[PlaitError], words: str) -> None:
    with pytest.raises(kind) as caught:
        read(url)
    assert words in caught.value.message
    assert caught.value.param == "messages[0].content[1]" and caught.value.param in caught.value.message


def test_a_picture_goes_out_as_png_without_loss() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    url = data_uri(encode_picture(Picture(16, 32, pixels.tobytes()), PictureFormat.PNG), PictureFormat.PNG)
    prefix, _, payload = url.partition(",")
    assert prefix == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(payload)))), pixels)


@pytest.mark.parametrize("output_format", list(PictureFormat))
def test_a_picture_goes_out_in_the_format_asked_for(output_format: PictureFormat) -> None:
    encoded = encode_picture(Picture(16, 32, bytes(16 * 32 * 3)), output_format)
    image = Image.open(io.BytesIO(encoded))
    assert image.format == output_format.name and image.size == (32, 16)


@pytest.mark.parametrize("draws", [True, False])
def test_the_vae_gets_a_picture_only_when_one_will_be_drawn(draws: bool) -> None:
    config = golden_model().config
    segment = input_segment(Image.new("RGB", (100, 80)), config, draws=draws)
    assert (segment.vae is not None) is draws
    assert segment.vit.width % config.vit.patch_size == 0 and len(segment.vit.rgb) == segment.vit.width * segment.vit.height * 3
