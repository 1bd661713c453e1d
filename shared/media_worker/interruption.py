"""Who this worker is, and whether AWS is about to take its machine.

On EC2 the instance metadata service (version 2) announces the interruption of a Spot instance two minutes ahead, and a
rebalance recommendation before that
(https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html). In an ECS task the task
metadata names the task and says when it is to stop, and the agent protects a task from scale-in while it works
(https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-scale-in-protection-endpoint.html).

The usual variables set the endpoints: AWS_EC2_METADATA_SERVICE_ENDPOINT, AWS_EC2_METADATA_DISABLED,
ECS_CONTAINER_METADATA_URI_V4 and ECS_AGENT_URI.
"""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from media_worker.telemetry import logger

OnRebalance: TypeAlias = Literal["stop", "ignore"]

_EC2_ENDPOINT = "http://169.254.169.254"
_TOKEN_TTL_S = 21_600
_TIMEOUT_S = 1.0
_PROTECTION_MINUTES = 120
# Metadata is local: a proxy must not see these requests.
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MetadataUnavailable(Exception):
    """There is no metadata service, or it did not answer."""


@dataclass(slots=True)
class Ec2Metadata:
    """The instance metadata service, version 2."""

    endpoint: str
    _token: str = ""
    _token_ends_at: float = 0.0

    def read(self, path: str) -> str | None:
        """The text of an entry, or None when there is no such entry.

        Raises:
            MetadataUnavailable: this is not an EC2 instance, or the service did not answer.
        """
        token = self._current_token()
        return _request(f"{self.endpoint}/latest/meta-data/{path}", headers={"X-aws-ec2-metadata-token": token})

    def _current_token(self) -> str:
        if time.monotonic() >= self._token_ends_at:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_TTL_S)}
            token = _request(f"{self.endpoint}/latest/api/token", method="PUT", headers=headers)
            if token is None:
                raise MetadataUnavailable("the metadata service gives no tokens")
            self._token, self._token_ends_at = token, time.monotonic() + _TOKEN_TTL_S / 2
        return self._token


@dataclass(slots=True)
class Host:
    """The machine or the task that the worker runs on."""

    ec2: Ec2Metadata | None = None
    # The URL of the task's metadata.
    ecs_task: str | None = None
    # The URL of the ECS agent.
    ecs_agent: str | None = None
    on_rebalance: OnRebalance = "stop"
    _protected_until: float = field(default=0.0, init=False)

    @classmethod
    def of(cls, environ: Mapping[str, str], on_rebalance: OnRebalance = "stop") -> "Host":
        """The host that the environment describes. Makes no call."""
        disabled = environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true"
        endpoint = environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or _EC2_ENDPOINT
        return cls(
            ec2=None if disabled else Ec2Metadata(endpoint.rstrip("/")),
            ecs_task=environ.get("ECS_CONTAINER_METADATA_URI_V4") or None,
            ecs_agent=environ.get("ECS_AGENT_URI") or None,
            on_rebalance=on_rebalance,
        )

    def identify(self) -> str:
        """The name of the task or of the instance, or the host name. A service that does not answer is not asked again.

        Instance and task are what a person looks for in the AWS console.
        """
        try:
            if arn := self._task().get("TaskARN"):
                return f"task {str(arn).rpartition('/')[2]}"
        except MetadataUnavailable as error:
            logger.warning("No task metadata", event="metadata_unavailable", reason=str(error))
            self.ecs_task = None
        try:
            if self.ec2 and (instance := self.ec2.read("instance-id")):
                return instance
        except MetadataUnavailable:
            self.ec2 = None  # not EC2, or metadata is not allowed here
        return socket.gethostname()

    @property
    def announces(self) -> bool:
        """Whether anything here announces the end of the machine."""
        return self.ec2 is not None or self.ecs_task is not None

    def notice(self) -> str | None:
        """Why the worker has to stop, or None. A service that does not answer announces nothing."""
        try:
            return self._ec2_notice() or self._ecs_notice()
        except MetadataUnavailable as error:
            logger.warning("No metadata", event="metadata_unavailable", reason=str(error))
            return None

    def protect(self, *, protected: bool) -> None:
        """Protect the task from scale-in, or end that. Call it again while the work goes on: protection expires.

        Best effort: without it, a task is interrupted by SIGTERM.
        """
        is_protected = self._protected_until > time.monotonic() + _PROTECTION_MINUTES * 30
        if self.ecs_agent is None or (is_protected if protected else not self._protected_until):
            return
        wanted = {"ProtectionEnabled": protected} | ({"ExpiresInMinutes": _PROTECTION_MINUTES} if protected else {})
        url = f"{self.ecs_agent.rstrip('/')}/task-protection/v1/state"
        try:
            _request(url, method="PUT", headers={"Content-Type": "application/json"}, body=json.dumps(wanted).encode())
        except MetadataUnavailable as error:
            logger.warning("Task not protected", event="task_not_protected", reason=str(error))
        else:
            self._protected_until = time.monotonic() + _PROTECTION_MINUTES * 60 if protected else 0.0

    def _ec2_notice(self) -> str | None:
        if self.ec2 is None:
            return None
        if action := self.ec2.read("spot/instance-action"):
            return f"Spot interruption: {action}"
        if self.on_rebalance == "stop" and (text := self.ec2.read("events/recommendations/rebalance")):
            return f"Spot rebalance recommendation: {text}"
        return None

    def _ecs_notice(self) -> str | None:
        return "ECS stops the task" if self._task().get("DesiredStatus") == "STOPPED" else None

    def _task(self) -> Mapping[str, Any]:
        if self.ecs_task is None or (text := _request(f"{self.ecs_task.rstrip('/')}/task")) is None:
            return {}
        try:
            answer: Mapping[str, Any] = json.loads(text)
        except ValueError as error:
            raise MetadataUnavailable("the task metadata is not JSON") from error
        return answer


def _request(
    url: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> str | None:
    """The text at a URL, or None for 404.

    Raises:
        MetadataUnavailable: nothing answered, or not with the text.
    """
    request = urllib.request.Request(url, data=body, method=method, headers=dict(headers or {}))  # noqa: S310 - http
    try:
        with _opener.open(request, timeout=_TIMEOUT_S) as answer:
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404:  # noqa: PLR2004
            return None
        raise MetadataUnavailable(f"{url} answered {error.code}") from error
    except (OSError, ValueError) as error:
        raise MetadataUnavailable(f"{url} did not answer: {error}") from error
    return text
