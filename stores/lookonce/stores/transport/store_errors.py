"""Sentences for what object stores and web servers answer: credentials, buckets, overload, network."""

from __future__ import annotations

import re

from lookonce.shared.errors import StoreError

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_KIND = re.compile(r"kind: (\w+)")

_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_WRONG = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "AuthenticationFailed"})
_CLOCK = "RequestTimeTooSkewed"
_METADATA = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where clients ask for credentials if they were given none."""

_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE with boto3 installed",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or 'gcloud auth application-default login'",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN, or 'hf auth login'",
}


def store_error(error: Exception, url: str, path: str) -> StoreError:
    """The error for a request that obstore gave up.

    Args:
        error: an exception of obstore.
        url: URL of the store.
        path: the object; empty for a listing.
    """
    scheme, where, text = url.partition("://")[0], f"{url}/{path}".rstrip("/"), str(error)
    status, code = _status(text, error), next(iter(_CODE.findall(text)), "")
    answer = f"{status} {code}".strip() if status else ""
    if any(host in text for host in _METADATA):
        return StoreError(f"{where}: found no credentials; give them by {_credentials(scheme)}")
    if code in _EXPIRED:
        return StoreError(
            f"{where}: the credentials have expired ({answer}): renew them ({_credentials(scheme)}), then run the same "
            "command again: it goes on where it stopped"
        )
    if code == _CLOCK:
        return StoreError(f"{where}: the clock of this machine is wrong ({answer}): set it, then run again")
    if status == 401 or code in _WRONG:
        return StoreError(f"{where}: the credentials are not accepted ({answer}): check {_credentials(scheme)}")
    if status == 403:
        absent = "; S3 answers so for a missing object, too, to those who may not list the bucket" * (scheme == "s3")
        return StoreError(
            f"{where}: access is denied ({answer}){absent}: check the permissions, and {_credentials(scheme)}"
        )
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return StoreError(f"{where}: there is no such bucket ({answer}): check its name and the endpoint, or create it")
    if status == 404:
        return StoreError(f"{where}: there is no such object ({answer})")
    if "BareRedirect" in text or status in (301, 307):
        return StoreError(f"{where}: the bucket is in another region: set AWS_REGION to the region of the bucket")
    if status == 501 or code == "NotImplemented":
        return StoreError(f"{where}: the server does not support this kind of request ({answer})", unsupported=True)
    if status in (408, 429) or status >= 500 or code in ("SlowDown", "InternalError", "RequestTimeout"):
        return StoreError(f"{where}: the server answers {answer or code}", may_pass=status != 501)
    if status:
        return StoreError(f"{where}: the server answers {answer}: {_first(text)}")
    if "Content-Length" in text:
        return StoreError(f"{where}: the server does not say how many bytes the object has; use another server")
    kind = type(error).__name__
    if kind in ("NotSupportedError", "InvalidPathError", "UnknownConfigurationKeyError"):
        return StoreError(f"{where}: {_first(text)}", unsupported=kind == "NotSupportedError")
    return StoreError(f"{where}: {_network(text)}", may_pass=True)


SLOW_ADVICE = "--patience waits longer, --workers 1 asks for less at a time"


def given_up(error: StoreError, seconds: float, advice: str) -> StoreError:
    """The error when a passing failure has not passed for some seconds.

    Args:
        error: the failure.
        seconds: how long it lasted.
        advice: what helps against a server that is too slow.
    """
    return StoreError(
        f"{error.message}; nothing has moved for {seconds:.0f} s: check the network and the server, then run the same "
        f"command again: it goes on where it stopped ({advice})",
        may_pass=True,
    )


def _status(text: str, error: Exception) -> int:
    found = _STATUS.search(text)
    if found:
        return int(found[1])
    return 404 if isinstance(error, FileNotFoundError) else 0


def _credentials(scheme: str) -> str:
    return _CREDENTIALS.get(scheme, "what the server asks for")


def _network(text: str) -> str:
    kind = next(iter(_KIND.findall(text)), "")
    if kind == "Timeout" or "timed out" in text:
        return "the server does not answer in time"
    if kind == "Connect":
        return "no connection to the server"
    return f"the connection failed ({_first(text)})"


def _first(text: str) -> str:
    """The end of the first paragraph, which has the cause."""
    line = " ".join(text.partition("\n\nDebug source")[0].split())
    return line.rpartition(" - ")[2][:200]
