"""The output of a program in a pod: its stream may break, hang, be rotated or refused; no line is taken twice for that."""

import re
import time
from collections import Counter
from typing import TYPE_CHECKING

import dagster as dg

from fine_tune_pipeline.resources.compute.kubernetes_manifest import CONTAINER
from fine_tune_pipeline.resources.compute.kubernetes_refusals import message_of
from fine_tune_pipeline.resources.compute.kubernetes_settings import KubernetesSettings
from fine_tune_pipeline.resources.compute.output import Output

if TYPE_CHECKING:
    from fine_tune_pipeline.resources.compute.kubernetes_cluster import Cluster

STAMPED = re.compile(rb"(?P<second>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.?\d*(?P<zone>Z|[-+]\d\d:\d\d) (?P<said>.*)", re.DOTALL)
"""A line of the log: when it was written, and what."""

CHUNK_BYTES = 1 << 16

REST_TRIES = 3
"""A node that gives no log of what has ended is not asked for ever."""


class Lines:
    """Takes the lines of several streams of one log once each.

    A stream that goes on after another starts with the second at which that one broke, so lines of this second are remembered: not only
    the last time, since lines of stdout and stderr may stand in the log a little out of order, or at the same moment.
    """

    def __init__(self) -> None:
        self.output = Output()
        self.since: str | None = None
        self._second = b""
        self._taken: Counter[bytes] = Counter()
        self._again: Counter[bytes] = Counter()
        self._pending = b""

    def begin(self) -> None:
        """A new stream starts, from the second `since` on; a line that the old one broke off comes again, whole."""
        self._again, self._pending = self._taken.copy(), b""

    def take(self, chunk: bytes) -> None:
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        for line in lines:
            self._take(line + b"\n")

    def end(self) -> None:
        """The stream has told all there is, so that a last line without its end is whole."""
        if self._pending:
            self._take(self._pending)
        self._pending = b""

    def _take(self, line: bytes) -> None:
        stamped = STAMPED.fullmatch(line)
        if stamped is None:
            # Of the node, not of the program.
            self.output.take(line)
            return
        if self._again[line]:
            self._again[line] -= 1
            return
        self._remember(line, stamped)
        self.output.take(stamped["said"])

    def _remember(self, line: bytes, stamped: re.Match[bytes]) -> None:
        if stamped["second"] > self._second:
            self._second, self._taken = stamped["second"], Counter()
            self.since = (stamped["second"] + stamped["zone"]).decode("ascii")
        if stamped["second"] == self._second:
            self._taken[line] += 1


class PodLog:
    """The log of one pod."""

    def __init__(self, cluster: "Cluster", settings: KubernetesSettings) -> None:
        self._cluster = cluster
        self._settings = settings
        self._lines = Lines()
        self._told = False

    def tail(self) -> str:
        return self._lines.output.tail()

    def follow(self, pod: str) -> None:
        """Take what comes, until the stream ends, breaks or is silent for too long."""
        self._read(pod, follow=True)

    def rest(self, pod: str) -> None:
        """Take what a stream that broke has left untold of a program that has ended."""
        for _ in range(REST_TRIES):
            if self._read(pod, follow=False):
                break
            time.sleep(self._settings.retry_seconds)
        self._lines.end()

    def _read(self, pod: str, *, follow: bool) -> bool:
        """Whether the stream came to its end."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        self._lines.begin()
        try:
            stream = self._cluster.log(
                pod, CONTAINER, since=self._lines.since, follow=follow, silence_seconds=self._settings.silence_seconds
            )
            try:
                for chunk in stream.stream(CHUNK_BYTES):
                    self._lines.take(chunk)
            finally:
                stream.close()
        except ReadTimeoutError:
            return False
        except (ApiException, HTTPError) as error:
            self._say(pod, message_of(error) if isinstance(error, ApiException) else str(error))
            return False
        return True

    def _say(self, pod: str, error: str) -> None:
        # Once: a node that gives no logs gives none for hours, and the program runs all the same.
        if not self._told:
            dg.get_dagster_logger().warning(f"Kubernetes: the log of {pod} broke off and is asked for anew: {error}")
        self._told = True
