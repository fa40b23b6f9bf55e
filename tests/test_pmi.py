"""The relay between MPI and Slurm's PMI server, with a server that this process plays."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

CLIENT = """
import os
from hpcmpi import pmi
pmi.relay()
number = int(os.environ["PMI_FD"])
for request in (b"cmd=get_maxes\\n", b"cmd=get key=" + b"k" * 900 + b"\\n"):
    os.write(number, request)
    print(os.read(number, 1023).decode(), end="")
"""


def converse(replies: list[bytes], **environment: str) -> tuple[str, list[bytes]]:
    """What a client read, and its requests, the last of which is empty: it has gone."""
    ours, theirs = socket.socketpair()
    named = os.environ | {"PMI_FD": str(theirs.fileno())} | environment
    with ours, theirs:
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT], env=named, pass_fds=[theirs.fileno()], stdout=subprocess.PIPE, text=True
        )
        theirs.close()
        ours.settimeout(60)
        requests = []
        for reply in replies:
            requests.append(ours.recv(1023))
            ours.sendall(reply)
        requests.append(ours.recv(1023))
        said, _ = client.communicate(timeout=60)
        assert client.returncode == 0
    return said, requests


REPLIES = [b"cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024\n", b"cmd=get_result value=vallen_max=1024\n"]
REQUESTS = [b"cmd=get_maxes\n", b"cmd=get key=" + b"k" * 900 + b"\n", b""]


def test_values_are_bounded_and_the_rest_is_passed_on_until_the_client_ends():
    said, requests = converse(REPLIES, SLURM_STEP_ID="0")
    assert said == "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=512\ncmd=get_result value=vallen_max=1024\n"
    assert requests == REQUESTS


def test_a_shorter_bound_stays():
    reply = REPLIES[0].replace(b"1024", b"300")
    assert converse([reply, REPLIES[1]], SLURM_STEP_ID="0")[0].splitlines()[0] == reply.decode().strip()


def test_only_srun_is_spoken_to_through_the_relay():
    assert converse(REPLIES, SLURM_STEP_ID="0", MPI_LOCALNRANKS="2") == (b"".join(REPLIES).decode(), REQUESTS)
