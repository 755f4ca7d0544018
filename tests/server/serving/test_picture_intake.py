"""Pictures on their way in, through a real reader process: what is read, what is refused, and what a reader cannot do."""

from __future__ import annotations

import base64
import io
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from model.transforms import vae_and_vit
from server.errors import ImageTooLarge, InvalidImage, PlaitError, UnsupportedParameter
from server.messages import ImageSegment, Picture
from server.serving.asks import PicturePart
from server.serving.interest import Interest, NobodyWaits
from server.serving.picture_files import PictureLimits
from server.serving.picture_intake import PictureIntake
from server.serving.picture_readers import PictureReaders
from tests.server.picture_files import encoded_picture, picture_uri, png_header, uri
from tests.server.running_front import golden_model
from tests.server.worker_processes import workers_running

LIMITS = PictureLimits(max_bytes=200_000, max_pixels=250_000, max_side=2_000, max_proportion=8)


@pytest.fixture(scope="module")
def intake() -> Iterator[PictureIntake]:
    intake = PictureIntake(PictureReaders(golden_model().config, LIMITS))
    yield intake
    intake.close()


def read(intake: PictureIntake, url: str, interest: Interest | None = None, *, draws: bool = True) -> ImageSegment:
    return intake.segment(PicturePart(url, "messages[0].content[1]"), interest or Interest(), draws=draws)


def pixels_of(picture: Picture | None) -> npt.NDArray[np.uint8]:
    assert picture is not None
    return np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_a_picture_of_each_format_is_read(file_format: str, intake: PictureIntake) -> None:
    segment = read(intake, picture_uri(40, 30, file_format))
    assert np.abs(pixels_of(segment.vae) - np.array([255.0, 0, 0])).max() <= 2  # JPEG's red is 254
    assert np.abs(pixels_of(segment.vit) - np.array([255.0, 0, 0])).max() <= 2


def test_transparency_becomes_white(intake: PictureIntake) -> None:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(buffer, "PNG")
    assert (pixels_of(read(intake, uri(buffer.getvalue())).vae) == 255).all()


def test_a_sixteen_bit_grey_ramp_stays_a_ramp(intake: PictureIntake) -> None:
    """It used to become white but for its darkest 255 of 65,536 levels."""
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG")
    pixels = pixels_of(read(intake, uri(buffer.getvalue())).vae)
    assert np.array_equal(pixels, np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=-1))


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
        ("data:image/png;base64,iVBOR", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0=Kggo", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0KGg=", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0\u00e9", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0KGgo%4", InvalidImage, "base64"),
        ("data:image/png;base64,iVBORw0KGgo", InvalidImage, "broken or truncated"),
        ("data:image/png;base64,", InvalidImage, "not a PNG, JPEG, WebP or GIF"),
        (uri(b"GIF89a" + bytes(64)), InvalidImage, "broken or truncated"),
        (uri(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), InvalidImage, "not a PNG, JPEG, WebP or GIF"),
        (uri(PNG[: len(PNG) // 2]), InvalidImage, "broken or truncated"),
        (uri(PNG[:20]), InvalidImage, "broken or truncated"),
        (uri(b"\xff\xd8\xff" + bytes(100)), InvalidImage, "broken or truncated"),
        (uri(animated("PNG")), InvalidImage, "animated"),
        (uri(animated("WEBP")), InvalidImage, "animated"),
        (uri(animated("GIF")), InvalidImage, "animated"),
        (uri(png_header(40_000, 40_000)), ImageTooLarge, "250000"),
        (uri(png_header(3_000, 3_000)), ImageTooLarge, "2000"),
        (uri(png_header(1_000, 1_000)), ImageTooLarge, "250000"),
        (uri(png_header(1_000, 10)), ImageTooLarge, "8 times"),
        (uri(bytes(200_003)), ImageTooLarge, "200000 bytes"),
    ],
)
def test_what_is_no_readable_picture_is_refused_by_name_and_bound(
    url: str, kind: type[PlaitError], words: str, intake: PictureIntake
) -> None:
    with pytest.raises(kind) as caught:
        read(intake, url)
    assert words in caught.value.message
    assert caught.value.param == "messages[0].content[1]" and caught.value.param in caught.value.message


NOISE = Image.fromarray(np.random.default_rng(7).integers(0, 256, (16, 16, 3), dtype=np.uint8))


@pytest.mark.parametrize("name", ["lines", "a space", "no padding", "percent-encoded", "a spaced type"])
def test_base64_is_read_in_every_form_that_addresses_may_have_it(name: str, intake: PictureIntake) -> None:
    """The URL standard's forgiving base64; the ``base64`` command breaks lines, and forms escape ``+``."""
    buffer = io.BytesIO()
    NOISE.save(buffer, "PNG")
    encoded = base64.b64encode(buffer.getvalue() + b"\xfb").decode()
    assert "+" in encoded and "/" in encoded and encoded.endswith("=")
    escaped = encoded.replace("+", "%2B").replace("/", "%2f").replace("=", "%3D")
    payloads = {
        "lines": ",\n" + "\r\n".join(textwrap.wrap(encoded, 76)) + "\n",
        "a space": ", " + encoded,
        "no padding": "," + encoded.rstrip("="),
        "percent-encoded": "," + escaped,
        "a spaced type": "," + encoded,
    }
    kind = "data:image/png; BASE64" if name == "a spaced type" else "data:image/png;base64"
    assert read(intake, kind + payloads[name]) == read(intake, uri(buffer.getvalue()))


def test_the_vae_gets_a_picture_only_when_one_will_be_drawn(intake: PictureIntake) -> None:
    assert read(intake, picture_uri(100, 80), draws=True).vae is not None
    assert read(intake, picture_uri(100, 80), draws=False).vae is None


def test_a_picture_comes_with_its_digests(intake: PictureIntake) -> None:
    """The engine worked them out between two steps, for each answer anew: four answers about sixteen pictures stopped everybody's words for
    a second."""
    for draws in (True, False):
        segment = read(intake, picture_uri(100, 80), draws=draws)
        assert segment.vit_digest == segment.vit.digest()
        assert segment.vae_digest == (segment.vae.digest() if segment.vae is not None else b"")


def test_a_reader_resizes_as_the_model_does(intake: PictureIntake) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 130, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    segment = read(intake, uri(buffer.getvalue()))
    vae, vit = vae_and_vit(noise, golden_model().config)
    assert np.array_equal(pixels_of(segment.vae), vae) and np.array_equal(pixels_of(segment.vit), vit)


def readers_of_this_process() -> list[psutil.Process]:
    return workers_running("picture_reader")


def test_a_picture_whose_reader_is_killed_is_read_by_another() -> None:
    """It was refused as no picture, whatever had killed its reader."""
    intake = PictureIntake(PictureReaders(golden_model().config, LIMITS, num_readers=1))
    before = {child.pid for child in readers_of_this_process()}
    read(intake, picture_uri())
    (reader,) = [child for child in readers_of_this_process() if child.pid not in before]
    reader.suspend()
    killer = threading.Timer(0.2, reader.kill)
    killer.start()
    assert read(intake, picture_uri()).vit.width > 0
    killer.join()
    intake.close()


def test_a_picture_that_takes_too_long_is_refused_and_its_reader_ended() -> None:
    intake = PictureIntake(PictureReaders(golden_model().config, LIMITS, num_readers=1, timeout_s=1.0))
    before = {child.pid for child in readers_of_this_process()}
    read(intake, picture_uri())
    (reader,) = [child for child in readers_of_this_process() if child.pid not in before]
    reader.suspend()
    with pytest.raises(InvalidImage, match="cannot be read"):
        read(intake, picture_uri())
    assert not psutil.pid_exists(reader.pid)
    intake.close()


def test_a_picture_that_nobody_waits_for_any_more_leaves_its_reader() -> None:
    """It kept it for as long as a picture may take, and the pictures of others were refused."""
    intake, client = PictureIntake(PictureReaders(golden_model().config, LIMITS, num_readers=1)), Interest()
    before = {child.pid for child in readers_of_this_process()}
    read(intake, picture_uri())
    (reader,) = [child for child in readers_of_this_process() if child.pid not in before]
    reader.suspend()
    with ThreadPoolExecutor(1) as pool:
        given_up = pool.submit(read, intake, picture_uri(), client)
        while not intake.readers._workers._free.empty():
            time.sleep(1e-3)
        client.is_over = True
        assert read(intake, picture_uri()).vit.width > 0
        with pytest.raises(NobodyWaits):
            given_up.result()
    intake.close()


def test_a_reader_sees_no_secret_and_can_open_nothing(intake: PictureIntake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIT_STORE", "redis://:secret@localhost")
    own = PictureIntake(PictureReaders(golden_model().config, LIMITS, num_readers=1))
    before = {child.pid for child in readers_of_this_process()}
    read(own, picture_uri())
    (reader,) = [child for child in readers_of_this_process() if child.pid not in before]
    assert "PLAIT_STORE" not in reader.environ()
    assert reader.num_fds() == 3, "standard input (its socket), output (nothing) and error"
    assert psutil.Process(reader.pid).rlimit(psutil.RLIMIT_NOFILE) == (3, 3)
    assert reader.net_connections("inet") == []
    assert Path(f"/proc/{reader.pid}/oom_score_adj").read_text() == "1000\n", "where memory runs out it goes before the engine"
    own.close()
    assert not psutil.pid_exists(reader.pid)
