"""Why a stored model is not used, in words that follow its name: "damaged: FILE has 5 bytes, 9 were stored"."""

from __future__ import annotations

from edgellm.types import store_problem as problems


def stored(of: problems.StoreProblem | None) -> str:
    """What is wrong with it; "" = nothing."""
    match of:
        case None:
            return ""
        case problems.FileUnreadable():
            return f"damaged: {of.path} cannot be read: {of.error}"
        case problems.Forbidden():
            return f"set aside: {of.path} may not be read by this user"
        case problems.OtherSize():
            return f"damaged: {of.path} has {of.n_bytes} bytes, {of.stored_bytes} were stored"
        case problems.OtherHash():
            return f"damaged: {of.path} has sha256 {of.sha256}, {of.stored_sha256} was stored"
        case problems.RecordUnreadable():
            return f"damaged: its record {of.path} cannot be read: {of.error}"
        case problems.RecordOfNewer():
            newer = f"a newer version of EdgeLLM (schema {of.schema}, this version reads {of.read_schema})"
            return f"set aside: its record {of.path} was written by {newer}"


def stored_remedy(of: problems.StoreProblem) -> str:
    """What to do about it."""
    if isinstance(of, problems.RecordOfNewer):
        return "update edgellm, or delete it with `edgellm rm`: until then it is neither used nor fetched again"
    if isinstance(of, problems.Forbidden):
        return "its owner lets others read it (`chmod -R a+rX` of its folder), or EDGELLM_HOME names a folder of yours"
    return "it is fetched again when it is chosen"
