"""THE TABLE says what each backend message does to the oldest unanswered request, and which state comes next.

Each request has a script: the states that its answers pass through, in order (ANSWERS); the last one is SYNC. For each
state the table lists the messages that may arrive. A cell gives the action and the next state. A message that is not
listed is a protocol error, which ends the connection. Source: protocol chapter, "Message Flow".
"""

from __future__ import annotations

from typing import TypeAlias

from ..errors import ProtocolError
from ..protocol.octets import LONG_LIMIT_BYTES, LONG_MESSAGES, SHORT_LIMIT_BYTES


class State:
    """The answer that the oldest unanswered request waits for. A script is a `bytes` object of these numbers.

    They are plain numbers, here and below: with `IntEnum`, importing the library would take an eighth longer.
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
    COPY_REFUSED = 11  # CopyFail was sent; the server answers it with an error
    EXECUTE_DISCARD = 12  # the data of an unexpected COPY OUT is discarded up to its CopyDone: by Execute ...
    QUERY_DISCARD = 13  # ... and by a simple Query
    COPY_IN_QUERY = 14  # a simple Query that should start a COPY from the client ...
    COPY_OUT_QUERY = 15  # ... or to it
    COPYING_IN = 16  # the client sends data; the only answer allowed is an error
    COPYING_OUT = 17
    COPIED = 18  # the sending side, client or server, has sent CopyDone
    EXECUTE_REFUSED = 19  # as COPY_REFUSED, by Execute: Sync, Close and Sync were sent after CopyFail ...
    RESYNC = 20  # ... and a ReadyForQuery before CloseComplete is not the last one


class Action:
    """What the session does with a message."""

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
    LAST_WORDS = 17  # an error while no request is in flight: the reason why the server is about to close
    COPY_HEADER = 18
    DATA = 19


class Next:
    """The state after a message, if the table does not name one State."""

    STAY = 253
    STEP = 254  # the next state of the request's script
    END = 255  # the last state of the request's script: after an error the server skips to Sync


def names_of(numbers: type) -> dict[int, str]:
    """The names of the numbers in State, Action or Next."""
    return {number: name for name, number in vars(numbers).items() if name.isupper()}


Cell: TypeAlias = tuple[int, int]  # an Action, and a State or Next

# Protocol chapter, "Asynchronous Operations": these may arrive in every state.
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
        "G": (Action.COPY_IN, State.EXECUTE_REFUSED),
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
        # A rewrite rule may add queries to a statement: each of them returns rows, but only one returns a tag.
        "T": (Action.DESCRIBE_FIELDS, Next.STAY),
        "C": (Action.TAG, State.STATEMENT),
        **_FAIL,
    },
    # A deferred constraint fails here, after the tag. A server that ends the session adds a FATAL to its error.
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
    State.EXECUTE_REFUSED: {"E": (Action.FAIL, State.RESYNC)},
    State.RESYNC: {"3": (Action.NEXT, State.SYNC), "Z": (Action.SKIP, Next.STAY), "E": (Action.FAIL, Next.STAY)},
    State.EXECUTE_DISCARD: {"d": (Action.SKIP, Next.STAY), "c": (Action.SKIP, State.EXECUTE), **_FAIL},
    State.QUERY_DISCARD: {"d": (Action.SKIP, Next.STAY), "c": (Action.SKIP, State.STATEMENT), **_FAIL},
}

# The states for the answers to each frontend message. Describe has its kind appended; Flush is not answered.
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
    """The table as two byte strings, of the actions and of the next states.

    Each has 256 bytes for a state, so that the index of a cell is state * 256 + tag.
    """
    actions, next_states = bytearray(256 * len(TABLE)), bytearray(256 * len(TABLE))
    for state, cells in TABLE.items():
        for letter, cell in [*ASYNCHRONOUS.items(), *cells.items()]:
            actions[256 * state + ord(letter)], next_states[256 * state + ord(letter)] = cell
    return bytes(actions), bytes(next_states)


ACTIONS, NEXT_STATES = _expand()


# ---- protocol errors


def check(state: int, tag: int, length: int) -> None:
    """Raise ProtocolError if a message with this tag is not allowed in this state, or cannot have this length in bytes.

    It needs only the header of the message, so it runs before the body arrives.
    """
    if ACTIONS[state * 256 + tag] == Action.DESYNC:
        raise misfit(state, tag, "is out of place")
    if length < 4 or length > LONG_LIMIT_BYTES or (length > SHORT_LIMIT_BYTES and chr(tag) not in LONG_MESSAGES):
        raise misfit(state, tag, f"has a length of {length}")


def misfit(state: int, tag: int, what: str) -> ProtocolError:
    """The ProtocolError for a message in a state; `what` says what is wrong with it."""
    return ProtocolError(f"the server's message {bytes([tag])!r} {what} in state {names_of(State)[state]}")


def check_status(status: int) -> None:
    """Raise ProtocolError for a byte that is not a transaction status."""
    if chr(status) not in "ITE":
        raise ProtocolError(f"ReadyForQuery has the transaction status {chr(status)!r}")


# ---- numbers that compiled modules compare with; `table.pxd` declares them as C constants

NOTIFICATION = Action.NOTIFICATION
NEXT = Action.NEXT
ROW = Action.ROW
TAG = Action.TAG
READY = Action.READY
DATA = Action.DATA
STAY = Next.STAY
STEP = Next.STEP
END = Next.END
BIND = State.BIND
PARSE = State.PARSE
QUERY = State.QUERY
EXECUTE = State.EXECUTE
# The status byte "I" of ReadyForQuery.
STATUS_IDLE = 73
