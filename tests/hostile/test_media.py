"""Hostile media: nothing outside the work directory is read, nothing is fetched, and every job ends."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_worker.jobs import JobStatus

from tests.functional.conftest import ClipMaker, clip, clip_folder, stack
from tests.functional.stack import Stack
from tests.hostile.mutants import attempt, make_bases

__all__ = ["clip", "clip_folder", "stack"]
SAMPLE = 30
CANARY = "canary-5f2e"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_bases(tmp_path_factory.mktemp("bases"))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_broken_file_fails_or_completes_correctly(bases: list[bytes], tmp_path: Path, number: int) -> None:
    """With limited memory, and without a process left. `make hostile` runs 2,000 files."""
    assert attempt(number * 7, bases, tmp_path, "auto").complaint == ""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port on loopback to which nobody may connect."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


def scripts(canary: Path, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/x.mp4"
    return {
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXTINF:1,\nfile://{canary}\n#EXT-X-ENDLIST\n",
        "concat": f"ffconcat version 1.0\nfile '{canary}'\nfile '{url}'\n",
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
        "dash": f'<MPD><Period><BaseURL>{url}</BaseURL><AdaptationSet mimeType="video/mp4"/></Period></MPD>',
        "subtitles": f"file:{canary}\n{url}\n",
        "image list": f"{canary}\n",
    }


@pytest.mark.parametrize("kind", ["hls", "concat", "sdp", "dash", "subtitles", "image list"])
@pytest.mark.parametrize("engine", ["auto", "ffmpeg"])
def test_a_playlist_is_not_a_video(
    stack: Stack, clip: ClipMaker, tmp_path: Path, listener: socket.socket, kind: str, engine: str
) -> None:
    """The file that it names is not opened, and its URL is not requested."""
    canary = tmp_path / f"{CANARY}.mp4"
    canary.write_bytes(clip("plain").read_bytes())
    accessed = canary.stat().st_atime_ns
    stack.add_job(engine={"S": engine})
    stack.upload(scripts(canary, listener.getsockname()[1])[kind].encode())
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert stack.job().error
    assert stack.segment_keys() == []
    assert canary.stat().st_atime_ns == accessed
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize("reference", ["file:///etc/passwd", "http://127.0.0.1:{port}/x"])
def test_a_reference_to_other_media_is_not_followed(
    stack: Stack, clip: ClipMaker, listener: socket.socket, reference: str
) -> None:
    """A data reference of an MP4 may name another file as the location of its samples."""
    target = reference.format(port=listener.getsockname()[1]).encode() + b"\0"
    content = clip("plain").read_bytes()
    # Data reference entries: flag 1 says "in this file"; without it, a location follows.
    own = b"\0\0\0\x0curl \0\0\0\x01"
    assert own in content
    stack.add_job()
    stack.upload(content.replace(own, (len(target) + 12).to_bytes(4) + b"url \0\0\0\0" + target))
    stack.chunk()
    bodies = [stack.read("test-input", key) for key in stack.segment_keys()]
    assert not any(b"root:" in body for body in bodies)
    with pytest.raises(BlockingIOError):
        listener.accept()
