"""How a model marks reasoning and tool calls in its answers, as data.

A reader and a grammar are made of the same row.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from edgellm.types.message import Tool


class ReasoningMarkup(msgspec.Struct, frozen=True):
    """`open` thought `close`. What has an empty `open` begins with a thought."""

    open: str
    close: str
    ended_by_call: bool = False  # a call in a thought is made, and ends it
    again: bool = False  # thoughts may come behind text too


class AnswerMarkup(msgspec.Struct, frozen=True):
    """What stands around the answer itself, behind a thought: `open` is left out, and `close` where it comes."""

    open: str
    close: str = ""
    end: str = ""  # of the whole, behind calls too


class JsonCalls(msgspec.Struct, frozen=True, tag="json"):
    """Calls that are JSON: section_open (open {"name": .., "arguments": {..}} close)+ section_close.

    Any of the four texts may be empty. All empty: an answer that is JSON with these keys is a call.
    """

    open: str = ""
    close: str = ""
    section_open: str = ""
    section_close: str = ""
    array: bool = False  # the calls of a section are a list: open is empty, and commas separate them
    wrapper: str = ""  # key of an object around name and arguments: {"type": "function", "function": {..}}
    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""
    name_is_key: bool = False  # {NAME: {arguments}}


class NamedCalls(msgspec.Struct, frozen=True, tag="named"):
    """Calls with the name outside of the JSON: section_open (open NAME after_name {..} close)+ section_close."""

    open: str
    after_name: str
    close: str = ""
    section_open: str = ""
    section_close: str = ""
    id_open: str = ""  # between name and after_name: NAME id_open ID after_name {..}


class TaggedCalls(msgspec.Struct, frozen=True, tag="tagged"):
    """Calls whose arguments are marked one by one, texts without quotes and other values as JSON.

    section_open (open NAME after_name (key_open KEY key_close value_open VALUE value_close)* close)+ section_close
    """

    open: str
    after_name: str
    key_open: str
    key_close: str
    value_close: str
    value_open: str = ""
    close: str = ""
    section_open: str = ""
    section_close: str = ""


class LiteralCalls(msgspec.Struct, frozen=True, tag="literals"):
    """Calls with literals of a programming language.

    section_open open (NAME bracket (KEY assign VALUE)* bracket)+ section_close. Commas separate arguments, and calls
    where `listed`. Numbers, lists and mappings are as in JSON.
    """

    section_open: str
    open: str
    section_close: str
    brackets: str  # two characters, around arguments
    assign: str  # between the name of an argument and its value; within mappings it is a colon
    quote: str  # around texts: one character where they have escapes
    listed: bool = False  # section_open open NAME(..), NAME(..) section_close


class AttributeCalls(msgspec.Struct, frozen=True, tag="attributes"):
    """Calls in tags, of which the first attribute is a name: it ends with a quotation mark, and others may follow.

    section_open (open NAME" .. head_close (key_open KEY" .. head_close VALUE value_close)* close)+ section_close
    """

    open: str
    head_close: str
    close: str
    key_open: str
    value_close: str
    section_open: str = ""
    section_close: str = ""
    text_attribute: str = ""  # of texts, others are JSON. Empty: the schema says which, and CDATA is a text


class NestedCalls(msgspec.Struct, frozen=True, tag="nested"):
    """Calls whose arguments are elements: section_open (open NAME after_name ELEMENT* close)+ section_close.

    ELEMENT: element KEY > (VALUE | ELEMENT*) element /KEY >. Those of a list have the key `item`.
    """

    section_open: str
    section_close: str
    open: str
    after_name: str
    close: str
    element: str


class HarmonyCalls(msgspec.Struct, frozen=True, tag="harmony"):
    """Messages with a header, of which the channel or the recipient says what they are.

    start ROLE( to=functions.NAME)? channel CHANNEL( to=functions.NAME)?( constrain json)? message BODY (end | call)
    Without channels: start ROLE to=(thinker | user | NAME) message BODY end
    """

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    constrain: str = "<|constrain|>"
    message: str = "<|message|>"
    end: str = "<|end|>"
    call: str = "<|call|>"
    answer_end: str = "<|return|>"
    space: str = ""  # that each of these texts has behind it
    thinker: str = ""  # for whom thoughts are, where there are no channels
    body: AttributeCalls | None = None  # how a call is written, if not as JSON


class RecipientCalls(msgspec.Struct, frozen=True, tag="recipient"):
    """Messages that begin with whom they are for: (open (NAME \\n {..} | everybody \\n TEXT))+."""

    open: str
    everybody: str


CallMarkup = (
    JsonCalls | NamedCalls | TaggedCalls | LiteralCalls | AttributeCalls | NestedCalls | HarmonyCalls | RecipientCalls
)


class Markup(msgspec.Struct, frozen=True):
    """None: the model has no such thing, or marks it in a way that is not known. All of it is text then."""

    reasoning: ReasoningMarkup | None = None
    calls: CallMarkup | None = None
    answer: AnswerMarkup | None = None

    @property
    def markers(self) -> frozenset[str]:
        """Texts that a reader has to see, also where the model writes them, or parts of them, as control tokens."""
        return frozenset(text for text in _texts(self) if text)

    def shows(self, control: str) -> bool:
        """Whether a reader has to see the control token of this text."""
        return bool(control) and any(control in marker for marker in self.markers)


class Reading(msgspec.Struct, frozen=True):
    """How the answer to one prompt is read. Without tools nothing in it is a call."""

    markup: Markup
    opened: str = ""  # the end of the prompt, which the answer continues: templates open thoughts themselves
    tools: tuple[Tool, ...] = ()


def _texts(struct: msgspec.Struct) -> Iterator[str]:
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if isinstance(value, msgspec.Struct):
            yield from _texts(value)
        elif isinstance(value, str) and not name.endswith("_key"):
            yield value.strip()
