"""Uploads go on beside training, one at a time; what went wrong with one is told, never lost."""

import threading

import pytest

from trainers.uploads import Uploads


def test_an_upload_runs_beside_and_the_next_waits_for_it():
    uploads, told, may = Uploads(), [], threading.Event()
    uploads.start(lambda: told.append(may.wait(10)))
    assert not told, "the caller goes on"
    threading.Timer(0.05, may.set).start()
    uploads.start(lambda: told.append("second"))
    assert told[0] is True, "in order"
    uploads.wait()
    assert told == [True, "second"]
    uploads.close()


def test_what_went_wrong_is_told_once_by_the_next_call():
    def fail() -> None:
        raise OSError("the bucket is gone")

    uploads = Uploads()
    uploads.start(fail)
    with pytest.raises(OSError, match="the bucket is gone"):
        uploads.wait()
    uploads.wait()
    uploads.start(fail)
    uploads.close()
    Uploads().close()
