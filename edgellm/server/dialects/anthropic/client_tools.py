"""Tools of Anthropic's that run at the client, and that its models know without a description: here they have one.

Source of names, commands and parameters: https://platform.claude.com/docs/en/agents-and-tools/tool-use, pages on the
bash, text editor and memory tools; for memory also the client's types `BetaMemoryTool20250818Command`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

_LINE = {"type": "integer", "minimum": 0}
_RANGE = {
    "type": "array",
    "items": {"type": "integer"},
    "minItems": 2,
    "maxItems": 2,
    "description": "view: first and last line to show, counted from 1; -1 as the last one means the end.",
}


class ClientTool(NamedTuple):
    """What a model is told of a tool: its usual name, what it is for, the JSON schema of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]


def client_tool(kind: str) -> ClientTool | None:
    """That of a `type` such as "bash_20250124"; None = it is none of these."""
    if kind in _EDITORS_THAT_UNDO:
        return _editor("str_replace_editor", "new_str", "undo_edit")
    return next((tool for prefix, tool in _TOOLS.items() if kind.startswith(prefix)), None)


def _text(description: str) -> dict[str, str]:
    return {"type": "string", "description": description}


def _commands(*names: str) -> dict[str, Any]:
    return {"type": "string", "enum": list(names), "description": "What to do."}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required)}


def _editor(name: str, inserted: str, *more: str) -> ClientTool:
    """`inserted`: the parameter that holds what `insert` inserts."""
    texts = {
        "file_text": _text("create: the content of the new file."),
        "old_str": _text("str_replace: the text to replace, exactly as it stands in the file, where it occurs once."),
        "new_str": _text("str_replace: what to put in its place."),
        "insert_text": _text("insert: what to put behind that line."),
    }
    if inserted == "new_str":
        texts["new_str"] = _text("str_replace: what to put in its place. insert: what to put behind that line.")
        del texts["insert_text"]
    return ClientTool(
        name,
        "Shows, creates and changes text files.",
        _object(
            ("command", "path"),
            command=_commands("view", "create", "str_replace", "insert", *more),
            path=_text("Of the file or, to view it, of a folder."),
            **texts,
            insert_line={**_LINE, "description": "insert: the line to insert behind; 0 = at the beginning."},
            view_range=_RANGE,
        ),
    )


_EDITORS_THAT_UNDO = ("text_editor_20241022", "text_editor_20250124")
_TOOLS = {
    "bash_": ClientTool(
        "bash",
        "Runs a command in a bash shell that stays open, so that folder and variables are kept from call to call.",
        _object(
            command=_text("The command; required unless the shell is restarted."),
            restart={"type": "boolean", "description": "true: start the shell anew."},
        ),
    ),
    "text_editor_": _editor("str_replace_based_edit_tool", "insert_text"),
    "memory_": ClientTool(
        "memory",
        "Keeps notes in files below /memories, which are still there in later conversations. "
        "View /memories first, and write down what will be of use.",
        _object(
            ("command",),
            command=_commands("view", "create", "str_replace", "insert", "delete", "rename"),
            path=_text("Of the file or folder, below /memories; all commands but rename need it."),
            file_text=_text("create: the content of the file."),
            old_str=_text("str_replace: the text to replace, exactly as it stands in the file."),
            new_str=_text("str_replace: what to put in its place."),
            insert_line={**_LINE, "description": "insert: the line at which to insert."},
            insert_text=_text("insert: what to insert."),
            view_range=_RANGE,
            old_path=_text("rename: the path as it is."),
            new_path=_text("rename: the path as it is to be."),
        ),
    ),
}
