"""Asking: an instruction and the class of a reply become a checked object, or a reject that says why not.

A subclass of `JsonReply` gives the JSON schema of a request (`reply_schema`) and the strict reader of what comes
(`read_reply`). `open_chats` opens the chats of configured annotators, on engines of our own or behind endpoints;
`interview` asks one, and once more with the fault quoted where the reply cannot be used.
"""

from mralign.asking.annotator import ResolvedAnnotator, check_annotator, check_budgets, resolve
from mralign.asking.chats import asking_faults, open_chat, open_chats
from mralign.asking.interview import Interview, ask, interview, price, said_or_reject, together, uncut
from mralign.asking.json_reply import Fault, JsonReply, read_reply, reply_schema

__all__ = [
    "Fault",
    "Interview",
    "JsonReply",
    "ResolvedAnnotator",
    "ask",
    "asking_faults",
    "check_annotator",
    "check_budgets",
    "interview",
    "open_chat",
    "open_chats",
    "price",
    "read_reply",
    "reply_schema",
    "resolve",
    "said_or_reject",
    "together",
    "uncut",
]
