"""Judges the graphs of a SavedModel before TensorFlow reads them. Knows its messages; computes nothing.

Every SavedModel can write checkpoints: its saver does. So operators that write and read them may be there, but nothing
that is run while the model is loaded or served may lead to them. This is no sandbox.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_OUTSIDE = re.compile(
    r"(Read|Write)File|.*MatchingFiles.*|.*PyFunc.*|PrintV2|Debug(Identity|Nan|Numeric).*|ImportEvent"
    r"|(WholeFile|TextLine|FixedLengthRecord|TFRecord|LMDB)Reader.*"
    r"|.*(TextLine|FixedLengthRecord|TFRecord|LMDB|Sql|Cache|Load|Save|Snapshot|SnapshotChunk|DataService)Dataset.*"
    r"|.*DatasetToTFRecord|RegisterDataset.*|Snapshot(Nested)?DatasetReader|ListSnapshotChunks.*"
    r"|CreateSummary(File|Db)Writer|FileSystemSetConfiguration|GenerateVocabRemapping|LoadAndRemapMatrix|RemoteCall"
)
"""Operators that touch files or hosts of their own choosing, or call Python."""
_SAVES = re.compile(r"Save(V2|Slices)?|DistributedSave|MergeV2Checkpoints")
_RESTORES = re.compile(r"Restore(V2|Slice)?")
_READS_TABLE = re.compile(r"InitializeTableFromTextFile(V2)?")
_INITIALIZERS = ("saved_model_main_op", "legacy_init_op")


def reaching_out(graph: Any) -> Iterator[str]:
    """Why `graph`, a MetaGraphDef, may not be loaded unseen; each continues a sentence that begins with its path."""
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    nodes = {node.name: node for node in graph.graph_def.node}
    assets = {_name(asset.tensor_info.name) for asset in graph.asset_file_def}
    every = [(nodes, ())] + [
        ({node.name: node for node in function.node_def}, [given.name for given in function.signature.input_arg])
        for function in functions.values()
    ]
    for inside, arguments in every:
        for node in inside.values():
            if _OUTSIDE.fullmatch(node.op):
                yield f"touches files or calls Python with its operator {node.name!r} ({node.op})"
            if _READS_TABLE.fullmatch(node.op):
                source = _name(node.input[1]) if len(node.input) > 1 else ""
                if source not in arguments and source not in assets:
                    yield f"reads a file that is not its asset with its operator {node.name!r} ({node.op})"
    for node in _reached(nodes, functions, _roots(graph)):
        if _SAVES.fullmatch(node.op) or _RESTORES.fullmatch(node.op):
            yield f"writes or reads a file while it is loaded or served, with its operator {node.name!r} ({node.op})"
    for node in _reached(nodes, functions, [_name(graph.saver_def.restore_op_name)]):
        if _SAVES.fullmatch(node.op):
            yield f"writes a file while it is restored, with its operator {node.name!r} ({node.op})"


def _roots(graph: Any) -> list[str]:
    """The functions and nodes that loading and serving may run; the saver's own are not among them."""
    roots = list(graph.object_graph_def.concrete_functions)
    for signature in graph.signature_def.values():
        roots += [_name(tensor.name) for tensor in signature.outputs.values()]
    for collection in _INITIALIZERS:
        roots += [_name(name) for name in graph.collection_def[collection].node_list.value]
    return roots


def _reached(nodes: Mapping[str, Any], functions: Mapping[str, Any], roots: Iterable[str]) -> Iterator[Any]:
    """The nodes that are computed where `roots` are: what feeds them, and all of each function that is called."""
    waiting, seen = list(roots), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = list(functions[name].node_def) if name in functions else []
        if name in nodes:
            found.append(nodes[name])
            waiting += [_name(source) for source in nodes[name].input]
        for node in found:
            yield node
            waiting += _called(node)


def _called(node: Any) -> list[str]:
    """The functions named in a node's attributes."""
    named = [value.func.name for value in node.attr.values() if value.HasField("func")]
    return named + [function.name for value in node.attr.values() for function in value.list.func]


def _name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]
