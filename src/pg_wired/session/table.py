"""THE TABLE: what each backend message does to the oldest unanswered request, and which state comes next.

A request is a script: the states that its answers lead through, one after the other (ANSWERS), the last of them SYNC.
For each state the table lists what may come. A message that is not listed makes the connection dead. A cell says what
to do, and which state comes next. Source: protocol chapter, "Message Flow".
"""

from __future__ import annotations

from typing import TypeAlias

from ..errors import ProtocolError
from ..protocol.octets import LONG_LIMIT_BYTES, LONG_MESSAGES, SHORT_LIMIT_BYTES


class State:
    """What the oldest unanswered request waits for. A script is a `bytes` of these.

    Plain numbers, here and below: members of an `IntEnum` would make the import of the library longer by an eighth.
    """

    IDLE = 0  # nothing is in flight
    PARSE = 1
    PARAMETERS = 2  # Describe of a statement: first its parameters ...
    FIELDS = 3  # ... then its columns; Describe of a portal: only these
    BIND = 4
    EXECUTE = 5
    CLOSE = 6
    QUERY = 7  # a simple Query before its first answer
    STATEMENT = 8  # a simple Query between two of its statements
    STATEMENT_ROWS = 9  # a simple Query inside the rows of a statement
    SYNC = 10
    COPY_REFUSED = 11  # CopyFail was sent, its error is due
    EXECUTE_DISCARD = 12  # COPY OUT that nobody asked for, thrown away until its CopyDone: by Execute ...
    QUERY_DISCARD = 13  # ... and by a simple Query
    COPY_IN_QUERY = 14  # a simple Query that is to begin a COPY from the client ...
    COPY_OUT_QUERY = 15  # ... or to it
    COPYING_IN = 16  # the client sends data: the server has nothing to say but that it fails
    COPYING_OUT = 17
    COPIED = 18  # CopyDone has been said, by whoever had to


class Action:
    """What a message does to the request it answers."""

    DESYNC = 0  # not listed
    NOTICE = 1
    NOTIFICATION = 2
    PARAMETER = 3
    NEXT = 4  # an acknowledgement
    DESCRIBE_PARAMETERS = 5
    DESCRIBE_FIELDS = 6
    NO_FIELDS = 7
    ROW = 8
    TAG = 9
    EMPTY = 10
    SUSPENDED = 11
    COPY_IN = 12
    COPY_OUT = 13
    SKIP = 14
    FAIL = 15
    READY = 16
    LAST_WORDS = 17  # an error that answers nothing: why the server is about to close
    COPY_HEADER = 18
    DATA = 19


class Next:
    """The state after a message, where it is not a fixed one."""

    STAY = 253
    STEP = 254  # the next one of the request's script
    END = 255  # the last one of the request's script: after an error the server skips to Sync


def names_of(numbers: type) -> dict[int, str]:
    """What State, Action or Next call their numbers."""
    return {number: name for name, number in vars(numbers).items() if name.isupper()}


Cell: TypeAlias = tuple[int, int]  # an Action, and a State or Next

# Protocol chapter, "Asynchronous Operations": these may come in every state.
ASYNCHRONOUS: dict[str, Cell] = {
    "N": (Action.NOTICE, Next.STAY),
    "A": (Action.NOTIFICATION, Next.STAY),
    "S": (Action.PARAMETER, Next.STAY),
}
_FAIL: dict[str, Cell] = {"E": (Action.FAIL, Next.END)}
_QUERY_COPIES: dict[str, Cell] = {
    "G": (Action.COPY_IN, State.COPY_REFUSED),
    "H": (Action.COPY_OUT, State.QUERY_DISCARD),
}

_ANSWER: dict[str, Cell] = {
    "T": (Action.DESCRIBE_FIELDS, State.STATEMENT_ROWS),
    "C": (Action.TAG, State.STATEMENT),
    "I": (Action.EMPTY, Next.END),
}

TABLE: dict[int, dict[str, Cell]] = {
    State.IDLE: {"E": (Action.LAST_WORDS, Next.STAY)},
    State.PARSE: {"1": (Action.NEXT, Next.STEP), **_FAIL},
    State.PARAMETERS: {"t": (Action.DESCRIBE_PARAMETERS, Next.STEP), **_FAIL},
    State.FIELDS: {
        "T": (Action.DESCRIBE_FIELDS, Next.STEP),
        "n": (Action.NO_FIELDS, Next.STEP),
        **_FAIL,
    },
    State.BIND: {"2": (Action.NEXT, Next.STEP), **_FAIL},
    State.EXECUTE: {
        "D": (Action.ROW, Next.STAY),
        "C": (Action.TAG, Next.STEP),
        "I": (Action.EMPTY, Next.STEP),
        "s": (Action.SUSPENDED, Next.STEP),
        "G": (Action.COPY_IN, State.COPY_REFUSED),
        "H": (Action.COPY_OUT, State.EXECUTE_DISCARD),
        **_FAIL,
    },
    State.CLOSE: {"3": (Action.NEXT, Next.STEP), **_FAIL},
    State.QUERY: {
        **_ANSWER,
        **_QUERY_COPIES,
        **_FAIL,
    },
    State.STATEMENT: {
        "T": (Action.DESCRIBE_FIELDS, State.STATEMENT_ROWS),
        "C": (Action.TAG, State.STATEMENT),
        "Z": (Action.READY, State.IDLE),
        **_QUERY_COPIES,
        **_FAIL,
    },
    State.STATEMENT_ROWS: {
        "D": (Action.ROW, Next.STAY),
        # A rewrite rule may add queries to a statement: each brings its rows, and only one brings a tag.
        "T": (Action.DESCRIBE_FIELDS, Next.STAY),
        "C": (Action.TAG, State.STATEMENT),
        **_FAIL,
    },
    # A deferred constraint fails here, after the tag; and a server that gives up adds a FATAL to its error.
    State.SYNC: {"Z": (Action.READY, State.IDLE), "E": (Action.FAIL, Next.STAY)},
    State.COPY_REFUSED: _FAIL,
    State.COPY_IN_QUERY: {
        "G": (Action.COPY_HEADER, State.COPYING_IN),
        "H": (Action.COPY_OUT, State.QUERY_DISCARD),
        **_ANSWER,
        **_FAIL,
    },
    State.COPY_OUT_QUERY: {
        "H": (Action.COPY_HEADER, State.COPYING_OUT),
        "G": (Action.COPY_IN, State.COPY_REFUSED),
        **_ANSWER,
        **_FAIL,
    },
    State.COPYING_IN: _FAIL,
    State.COPIED: {"C": (Action.TAG, State.STATEMENT), **_FAIL},
    State.COPYING_OUT: {"d": (Action.DATA, Next.STAY), "c": (Action.NEXT, State.COPIED), **_FAIL},
    State.EXECUTE_DISCARD: {"d": (Action.SKIP, Next.STAY), "c": (Action.SKIP, State.EXECUTE), **_FAIL},
    State.QUERY_DISCARD: {"d": (Action.SKIP, Next.STAY), "c": (Action.SKIP, State.STATEMENT), **_FAIL},
}

# What each frontend message is answered with. Describe has its kind appended; Flush is not answered.
ANSWERS: dict[str, tuple[int, ...]] = {
    "P": (State.PARSE,),
    "DS": (State.PARAMETERS, State.FIELDS),
    "DP": (State.FIELDS,),
    "B": (State.BIND,),
    "E": (State.EXECUTE,),
    "C": (State.CLOSE,),
    "H": (),
    "S": (State.SYNC,),
    "Q": (State.QUERY, State.SYNC),
}


def _expand() -> tuple[bytes, bytes]:
    """256 bytes for each state, so that state * 256 + tag finds the action, and in the second one the next state."""
    actions, next_states = bytearray(256 * len(TABLE)), bytearray(256 * len(TABLE))
    for state, cells in TABLE.items():
        for letter, cell in [*ASYNCHRONOUS.items(), *cells.items()]:
            actions[256 * state + ord(letter)], next_states[256 * state + ord(letter)] = cell
    return bytes(actions), bytes(next_states)


ACTIONS, NEXT_STATES = _expand()


# ---- what does not fit


def check(state: int, tag: int, length: int) -> None:
    """Raise for a message that is out of place, or has a length that its type cannot have; before its body has come."""
    if ACTIONS[state * 256 + tag] == Action.DESYNC:
        raise misfit(state, tag, "is out of place")
    if length < 4 or length > LONG_LIMIT_BYTES or (length > SHORT_LIMIT_BYTES and chr(tag) not in LONG_MESSAGES):
        raise misfit(state, tag, f"has a length of {length}")


def misfit(state: int, tag: int, what: str) -> ProtocolError:
    """The error for a message that does not fit."""
    return ProtocolError(f"the server's message {bytes([tag])!r} {what} in state {names_of(State)[state]}")


def check_status(status: int) -> None:
    """Raise for a byte that is no transaction status."""
    if chr(status) not in "ITE":
        raise ProtocolError(f"ReadyForQuery has the transaction status {chr(status)!r}")


# ---- the numbers that compiled modules compare with; `table.pxd` has them as constants of C

NOTICE = Action.NOTICE
NOTIFICATION = Action.NOTIFICATION
PARAMETER = Action.PARAMETER
NEXT = Action.NEXT
DESCRIBE_PARAMETERS = Action.DESCRIBE_PARAMETERS
DESCRIBE_FIELDS = Action.DESCRIBE_FIELDS
NO_FIELDS = Action.NO_FIELDS
ROW = Action.ROW
TAG = Action.TAG
EMPTY = Action.EMPTY
SUSPENDED = Action.SUSPENDED
COPY_IN = Action.COPY_IN
COPY_OUT = Action.COPY_OUT
SKIP = Action.SKIP
FAIL = Action.FAIL
READY = Action.READY
LAST_WORDS = Action.LAST_WORDS
COPY_HEADER = Action.COPY_HEADER
DATA = Action.DATA
STAY = Next.STAY
STEP = Next.STEP
END = Next.END
IDLE = State.IDLE
BIND = State.BIND
PARSE = State.PARSE
QUERY = State.QUERY
EXECUTE = State.EXECUTE
SYNC = State.SYNC
# ReadyForQuery's status byte "I".
STATUS_IDLE = 73
