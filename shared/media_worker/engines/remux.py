"""The remux engine: ffmpeg copies the packets of a file, whatever its container, into an MP4 on /tmp.

The MP4 is a QuickTime file if its video needs that (ProRes, DNxHD, DV, uncompressed): the reader takes both.

ffmpeg reads most containers forward, so it is fed through a pipe while the object is being read from S3: only the MP4
takes space on /tmp, and a source of 9 GB fits into 10 GB. Those with an index that it has to seek to are downloaded
first, and need twice the space:

    MOV and MP4    the index (moov) is behind the media, or is compressed
    MXF            the order of presentation is in the index table in the footer
"""

import re
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from media_worker.deadline import Deadline
from media_worker.engines.commands import (
    IMAGE_CODECS,
    NONSTANDARD_CODECS,
    PacketTimes,
    Track,
    Tracks,
    muxer_for,
    parse_packets,
    parse_tracks,
    probe_command,
    remux_command,
    trial_command,
    unpack_command,
)
from media_worker.engines.copy import Media
from media_worker.engines.exact_times import with_exact_times
from media_worker.engines.ffmpeg import Fed, Ffmpeg
from media_worker.errors import BadSegment, BadSource, FfmpegFailed
from media_worker.mp4 import Encrypted, Movie, Mp4Error, read_movie
from media_worker.mp4.reader import FIRST_BOXES
from media_worker.s3 import StoredObject, download, downloads, read_forward, read_range, read_ranges
from media_worker.telemetry import Steps, logger, submit
from media_worker.workdir import require_room, work_directory

if TYPE_CHECKING:
    from media_worker.aws import Aws

# Of a processed segment; each has an ffmpeg of its own.
_REMUXES_AT_ONCE = 2
_MXF_KEY = bytes.fromhex("060e2b34")  # the start of every SMPTE universal label
# The user data of video with packed B-frames, which is in front of the first frame.
_PACKED, _HEAD_BYTES = re.compile(rb"DivX\d+(?:b|Build)\d+p"), 1 << 16
# What a muxer writes, in messages.
_FILES = {"mp4": "an MP4", "mov": "a QuickTime file, which this video needs,"}
_ADVICE = {
    "video": "convert the video to H.264, HEVC, VP9 or AV1",
    "audio": "convert the audio to AAC",
}
_REPAIR = (
    "if it is damaged, repair it, for example with `ffmpeg -i source -map 0 -c copy repaired.mp4` (if that fails, put "
    "`-fflags +discardcorrupt` before `-i`: it leaves out damaged packets), then upload it again"
)
_CONVERT = "convert it to MP4 with another program, then upload it again"
_CUT_OFF = "File ended prematurely"  # ffmpeg's word on a Matroska file whose recording was not finished


@contextmanager
def open_source(aws: "Aws", source: StoredObject, deadline: Deadline, steps: Steps) -> Iterator[Media]:
    """Remux a source. The MP4 exists while the body runs.

    Raises:
        BadSource: this is not a video that can be split, or an MP4 cannot hold it.
        NoRoom: the MP4 does not fit on /tmp.
    """
    with work_directory() as directory:
        ffmpeg = Ffmpeg(aws.settings.ffmpeg_path, directory, deadline)
        with steps.step("remux", source.size_bytes):
            try:
                media = _remux(aws, source, ffmpeg, "source")
            except BadSource as error:
                raise BadSource(f"the source cannot be split: {error}") from error
        yield media


@contextmanager
def open_segments(
    aws: "Aws", segments: Sequence[StoredObject], indexes: Sequence[int], deadline: Deadline
) -> Iterator[dict[int, Media]]:
    """Remux the processed segments with these indexes. The MP4s exist while the body runs.

    Raises:
        BadSegment: one is not a video, or an MP4 cannot hold it; names it.
        NoRoom: the MP4s do not fit on /tmp.
    """
    size_bytes = sum(segments[index].size_bytes for index in indexes)

    def remux(index: int) -> Media:
        try:
            return _remux(aws, segments[index], ffmpeg, f"segment-{index}")
        except BadSource as error:
            raise BadSegment(f"segment {index} cannot be joined: {error}") from error

    with work_directory() as directory:
        require_room(directory, size_bytes, f"remuxing {len(indexes)} segments of {size_bytes / 1e6:,.0f} MB")
        ffmpeg = Ffmpeg(aws.settings.ffmpeg_path, directory, deadline)
        pool = ThreadPoolExecutor(_REMUXES_AT_ONCE)
        try:
            remuxed = {index: submit(pool, remux, index) for index in indexes}
            yield {index: each.result() for index, each in remuxed.items()}
        finally:
            pool.shutdown(cancel_futures=True)


def _remux(aws: "Aws", stored: StoredObject, ffmpeg: Ffmpeg, name: str) -> Media:
    """Remux an object to `{name}.mp4` in ffmpeg's work directory.

    Raises:
        BadSource: this is not a video, or an MP4 cannot hold it.
    """
    head = read_range(aws, stored, 0, min(_HEAD_BYTES, stored.size_bytes))
    try:
        with _input(aws, stored, head, ffmpeg, name) as packed, _unpacked(stored, head, packed, f"{name}.avi") as media:
            tracks = _probe(media)
            kept = _checked(tracks)
            path = ffmpeg.directory / f"{name}.mp4"
            found, messages = _copy_packets(media, kept, path)
    except FfmpegFailed as error:
        raise BadSource(f"ffmpeg cannot read it as a video: {error.reason}: if it is one, {_CONVERT}") from error
    if messages:
        logger.warning("ffmpeg reported problems", event="remux_problems", key=stored.key, messages=messages)
    read = partial(_read_file, path)
    try:
        movie = read_movie(read, path.stat().st_size)
    except Mp4Error as error:
        raise BadSource(f"the MP4 that ffmpeg made of it cannot be read: {error}") from error
    if not any(times.key_frames for track, times in zip(kept, found, strict=True) if track.kind == "video"):
        raise BadSource(
            f"ffmpeg finds no key frame of {_listed([each for each in kept if each.kind == 'video'])}: {_CONVERT}"
        )
    # ffmpeg's muxer leaves out tracks without packets.
    filled = [(track, times) for track, times in zip(kept, found, strict=True) if times.count]
    empty = [track for track, times in zip(kept, found, strict=True) if not times.count]
    packets = [times for _, times in filled]
    _check_packets(movie, [track for track, _ in filled], packets)
    return Media(with_exact_times(movie, packets), path, "remux", read, tuple(_notices(tracks, empty, messages)))


# What ffmpeg reads ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Input:
    """What ffmpeg reads, by its name on the command line: a file, or its stdin and what that is fed with."""

    ffmpeg: Ffmpeg
    name: str
    fed: Fed | None = None

    def run(self, argv: Sequence[str]) -> str:
        return self.ffmpeg.run(argv, self.fed)


@contextmanager
def _input(aws: "Aws", stored: StoredObject, head: bytes, ffmpeg: Ffmpeg, name: str) -> Iterator[_Input]:
    """The object, which begins with `head`, through a pipe, or downloaded while the body runs."""
    what = f"remuxing {stored.size_bytes / 1e6:,.0f} MB"
    if not _needs_seeking(head):
        require_room(ffmpeg.directory, stored.size_bytes, what)
        yield _Input(ffmpeg, "pipe:0", Fed(partial(read_forward, aws, stored), stored.size_bytes))
        return
    require_room(ffmpeg.directory, 2 * stored.size_bytes, f"{what} that ffmpeg cannot read forward")
    _refuse_encrypted(aws, stored)
    path = ffmpeg.directory / name
    with downloads(aws) as manager:
        download(manager, stored, path, ffmpeg.deadline)
    try:
        yield _Input(ffmpeg, name)
    finally:
        path.unlink()


@contextmanager
def _unpacked(stored: StoredObject, head: bytes, media: _Input, name: str) -> Iterator[_Input]:
    """The object, or a copy without packed B-frames: packets of DivX and XviD that have two frames.

    While it unpacks them, ffmpeg cannot work out when frames are presented; in the copy it can.
    """
    if not head.startswith(b"RIFF") or not _PACKED.search(head):
        yield media
        return
    directory = media.ffmpeg.directory
    require_room(directory, 2 * stored.size_bytes, f"remuxing {stored.size_bytes / 1e6:,.0f} MB with packed B-frames")
    media.run(unpack_command(media.ffmpeg.path, media.name, name))
    try:
        yield _Input(media.ffmpeg, name)
    finally:
        (directory / name).unlink()


def _refuse_encrypted(aws: "Aws", stored: StoredObject) -> None:
    """Ffmpeg would copy encrypted samples into an MP4 that does not say so.

    Raises:
        BadSource: the samples are encrypted.
    """
    try:
        read_movie(partial(read_range, aws, stored), stored.size_bytes, partial(read_ranges, aws, stored))
    except Encrypted as error:
        raise BadSource(f"{error}: decrypt it before the upload") from error
    except Mp4Error:
        pass  # why it is remuxed, unless all files are


def _needs_seeking(head: bytes) -> bool:
    """Whether the file has an index that ffmpeg has to seek to."""
    return head[4:8] in FIRST_BOXES or head.startswith(_MXF_KEY)


def _read_file(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


# Which tracks travel on -----------------------------------------------------------------------------------------------


def _probe(media: _Input) -> Tracks:
    """The tracks of a file, and which of them an MP4 cannot hold.

    Raises:
        FfmpegFailed: this is not a media file of a supported container.
    """
    found = parse_tracks(media.run(probe_command(media.ffmpeg.path, media.name)))
    is_held = partial(_is_held, media, muxer_for(found))
    refused = [track for track in found if track.codec in NONSTANDARD_CODECS]
    if refused or not is_held():
        refused += [track for track in found if track not in refused and not is_held(track)]
    images = [track for track in found if track.kind == "video" and track.codec in IMAGE_CODECS]
    covers = [track for track in images if track in refused or not is_held(track)]
    return Tracks(
        kept=tuple(track for track in found if track not in refused and track not in covers),
        covers=tuple(covers),
        refused=tuple(track for track in refused if track not in covers),
    )


def _is_held(media: _Input, muxer: str, track: Track | None = None) -> bool:
    """Whether a file that this muxer writes can hold a track, or all tracks."""
    trial = media.ffmpeg.directory / f"trial-{threading.get_ident()}.mp4"
    try:
        media.run(trial_command(media.ffmpeg.path, media.name, muxer, trial.name, track))
    except FfmpegFailed:
        return False
    finally:
        trial.unlink(missing_ok=True)
    return True


def _checked(tracks: Tracks) -> tuple[Track, ...]:
    """The tracks to copy.

    Raises:
        BadSource: there is no video, or an MP4 cannot hold a video or audio track.
    """
    lost = [track for track in tracks.refused if track.kind in _ADVICE]
    if lost:
        advice = " and ".join(_ADVICE[kind] for kind in dict.fromkeys(track.kind for track in lost))
        raise BadSource(f"{_FILES[tracks.muxer]} cannot hold {_listed(lost)}: {advice}, then upload it again")
    if not any(track.kind == "video" for track in tracks.kept):
        raise BadSource(f"there is no video track: {_listed(tracks.kept + tracks.covers) or 'no track at all'}")
    return tracks.kept


def _notices(tracks: Tracks, empty: Sequence[Track], messages: str) -> Iterator[str]:
    """What the user should know about the remux. `empty`: tracks without packets."""
    if empty:
        yield f"left out, because it has no packets: {_listed(empty)}"
    if left_out := tracks.refused + tracks.covers:
        yield f"left out, because {_FILES[tracks.muxer]} cannot hold it: {_listed(left_out)}"
    if _CUT_OFF in messages:
        yield "the source was cut off: its recording was not finished, or its upload is incomplete"


def _listed(tracks: Sequence[Track]) -> str:
    return "; ".join(map(str, tracks))


# Copying --------------------------------------------------------------------------------------------------------------


def _copy_packets(media: _Input, kept: Sequence[Track], path: Path) -> tuple[list[PacketTimes], str]:
    """Write the MP4. Returns the times of the packets that went in, and ffmpeg's messages.

    Raises:
        BadSource: ffmpeg found an error in the file.
    """
    command = remux_command(media.ffmpeg.path, media.name, kept, path.name)
    try:
        with media.ffmpeg.running(command, media.fed) as process:
            packets = parse_packets(process.lines())
    except FfmpegFailed as error:
        raise BadSource(f"ffmpeg cannot copy its packets: {error.reason}: {_REPAIR}") from error
    return packets, process.messages


def _check_packets(movie: Movie, kept: Sequence[Track], packets: Sequence[PacketTimes]) -> None:
    """Compare the MP4 with the packets that went in.

    Raises:
        BadSource: packets have no presentation times, or ffmpeg has lost some.
    """
    if len(movie.tracks) < len(kept):
        raise BadSource(f"ffmpeg wrote {len(movie.tracks)} of {len(kept)} tracks")
    for track, times, written in zip(kept, packets, movie.tracks, strict=False):
        if track.kind == "video" and not times.are_known:
            raise BadSource(
                f"the container does not say when each frame of {track} is presented: "
                "re-encode it, or convert it with another program, then upload it again"
            )
        if times.hides_inside:
            raise BadSource(
                f"its edit list hides parts of {track} between others, and ffmpeg cannot copy that: "
                "use the engine auto or copy, or re-encode it"
            )
        # PCM packets are many samples. ffmpeg adds empty samples between subtitles.
        is_exact = written.table.count == times.count if track.kind in _ADVICE else written.table.count >= times.count
        if not written.table.is_pcm and not is_exact:
            raise BadSource(f"ffmpeg wrote {written.table.count} of {times.count} packets of {track}")
