"""`plm lsp`: what the other modules of this room know, said in the Language Server Protocol by pygls.

Texts come whole at each change; what is wrong with one is published once no change has come for a moment.
Positions are counted in the units that the editor and pygls agree on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.lsp.server import LanguageServer

from posterior_lm.editors.completion import complete
from posterior_lm.editors.document import Document
from posterior_lm.editors.hover import hover
from posterior_lm.editors.mends import mends
from posterior_lm.editors.places import Places
from posterior_lm.editors.rewards import log_rewards
from posterior_lm.lang import ast
from posterior_lm.lang.colours import pieces
from posterior_lm.lang.diagnostics import Diagnostic, PlmError, render_concise
from posterior_lm.lang.source import Source, Span

PAUSE = 0.002
"""Seconds without a change after which a text is checked: keys that come faster than checking are one change."""
REFUSED = -32803
"""LSP's code of a request that cannot be met, with a message for the user."""
LOG_REWARDS = "plm.logRewards"

Check = Callable[[Source], list[Diagnostic]]
"""Everything that `plm check --lint` says of a program; asked when a file is opened or saved."""

_COLOURS = {
    "comment": "comment", "keyword": "keyword", "string": "string", "number": "number", "type": "type",
    "name": "variable", "function": "function", "call": "function", "option": "property",
}  # fmt: skip
_LEGEND = types.SemanticTokensLegend(list(dict.fromkeys(_COLOURS.values())), [])
_SYMBOLS: dict[type, types.SymbolKind] = {
    ast.Param: types.SymbolKind.Property, ast.Latent: types.SymbolKind.Variable, ast.Let: types.SymbolKind.Constant,
    ast.Observe: types.SymbolKind.Event, ast.Prefer: types.SymbolKind.Event, ast.Factor: types.SymbolKind.Number, ast.Condition: types.SymbolKind.Boolean,
    ast.Plate: types.SymbolKind.Array, ast.Temper: types.SymbolKind.Operator,
    ast.If: types.SymbolKind.Enum, ast.Else: types.SymbolKind.Enum, ast.Guide: types.SymbolKind.Method,
    ast.Infer: types.SymbolKind.Method,
}  # fmt: skip


class Server(LanguageServer):
    """The documents that are open, by URI, and the log rewards that were asked for of each."""

    def __init__(self, version: str, check: Check) -> None:
        super().__init__("plm", version, text_document_sync_kind=types.TextDocumentSyncKind.Full)
        self.check = check
        self.open: dict[str, Document] = {}
        self.rewards: dict[str, list[tuple[int, str]]] = {}
        self._waiting: dict[str, asyncio.TimerHandle] = {}

    def document(self, uri: str) -> Document:
        """The text as the editor has it; an empty one where it has told of none."""
        return self.open.get(uri) or Document(uri, "")

    def places(self, document: Document) -> Places:
        return Places(document.source.text, str(getattr(self.workspace.position_encoding, "value", "utf-16")))

    def at(self, params: Any) -> tuple[Document, Places, int]:
        """The document and the offset that a request is about."""
        document = self.document(params.text_document.uri)
        places = self.places(document)
        return document, places, places.offset(params.position)

    def changed(self, uri: str, document: Document) -> None:
        """Keeps a new version, and says what is wrong with it in a moment."""
        self.open[uri] = document
        if self.rewards.pop(uri, None) is not None:
            self.workspace_inlay_hint_refresh(None)
        if uri in self._waiting:
            self._waiting[uri].cancel()
        self._waiting[uri] = asyncio.get_running_loop().call_later(PAUSE, self.publish, uri)

    def publish(self, uri: str, more: Iterable[Diagnostic] = ()) -> None:
        """Says what is wrong with the text as it is now, and `more` of it."""
        if (document := self.open.get(uri)) is None:
            return
        places = self.places(document)
        told = [_diagnostic(d, places, uri) for d in (*document.checked.diagnostics, *more)]
        self.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, told))


def _diagnostic(found: Diagnostic, places: Places, uri: str) -> types.Diagnostic:
    """With its label, notes and help in its message; one of another file stands at the beginning of the text."""
    span = found.primary.span if found.primary else None
    message = [found.message]
    if span is not None and span.source.text != places.text:
        span, message = None, [render_concise(found)]
    elif found.primary is not None and found.primary.text:
        message[0] += f": {found.primary.text}"
    message += [f"note: {note}" for note in found.notes] + ([f"help: {found.help}"] if found.help else [])
    beside = [label for label in found.secondary if label.span.source.text == places.text]
    return types.Diagnostic(
        range=places.range(0, 0) if span is None else places.range(span.start, span.end),
        message="\n".join(message),
        severity=getattr(types.DiagnosticSeverity, found.severity.capitalize()),
        code=found.code,
        source="plm",
        tags=[types.DiagnosticTag.Unnecessary] if found.code == "PLM903" else None,
        related_information=[
            types.DiagnosticRelatedInformation(
                types.Location(uri, places.range(label.span.start, label.span.end)), label.text
            )
            for label in beside
        ],
    )


def make_server(version: str, check: Check) -> Server:
    """A server that is not started; `start_io()` starts it on the standard streams."""
    server = Server(version, check)

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        uri = params.text_document.uri
        path = server.workspace.get_text_document(uri).path
        server.open[uri] = Document(path, params.text_document.text)
        _whole(server, uri)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def saved(params: types.DidSaveTextDocumentParams) -> None:
        _whole(server, params.text_document.uri)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def changed(params: types.DidChangeTextDocumentParams) -> None:
        uri = params.text_document.uri
        text = params.content_changes[-1].text if params.content_changes else ""
        server.changed(uri, server.document(uri).then(text))

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        uri = params.text_document.uri
        server.open.pop(uri, None)
        server.rewards.pop(uri, None)
        server.text_document_publish_diagnostics(types.PublishDiagnosticsParams(uri, []))

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def hovered(params: types.HoverParams) -> types.Hover | None:
        document, places, offset = server.at(params)
        found = hover(document, offset)
        if found is None:
            return None
        text = types.MarkupContent(types.MarkupKind.Markdown, found[1])
        return types.Hover(text, places.range(found[0].start, found[0].end))

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=[".", "(", "~", "="])
    )
    def completed(params: types.CompletionParams) -> list[types.CompletionItem]:
        document, _, offset = server.at(params)
        return [
            types.CompletionItem(
                item.label, detail=item.detail or None, documentation=item.about or None,
                insert_text=item.insert, kind=getattr(types.CompletionItemKind, item.kind),
            )
            for item in complete(document, offset)
        ]  # fmt: skip

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def defined(params: types.DefinitionParams) -> types.Location | None:
        document, places, offset = server.at(params)
        found = document.named(offset)
        if found is None:
            return None
        span = found[1].name.span if isinstance(found[1], ast.Column) else found[1].span
        return types.Location(params.text_document.uri, places.range(span.start, span.end))

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def referred(params: types.ReferenceParams) -> list[types.Location]:
        document, places, offset = server.at(params)
        found = document.named(offset)
        spans = [] if found is None else document.uses(found[1])
        if spans and not params.context.include_declaration:
            spans = spans[1:]
        return [types.Location(params.text_document.uri, places.range(s.start, s.end)) for s in spans]

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def may_rename(params: types.PrepareRenameParams) -> types.Range | None:
        document, places, offset = server.at(params)
        found = document.named(offset)
        return None if found is None else places.range(found[0].start, found[0].end)

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    def renamed(params: types.RenameParams) -> types.WorkspaceEdit:
        document, places, offset = server.at(params)
        try:
            spans = document.rename(offset, params.new_name)
        except PlmError as refused:
            raise _refusal(refused) from None
        return _edit(params.text_document.uri, places, [(span, params.new_name) for span in spans])

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def formatted(params: types.DocumentFormattingParams) -> list[types.TextEdit]:
        document = server.document(params.text_document.uri)
        text = document.formatted()
        if text is None or text == document.source.text:
            return []
        return [types.TextEdit(server.places(document).range(0, len(document.source.text)), text)]

    @server.feature(types.TEXT_DOCUMENT_CODE_ACTION, types.CodeActionOptions([types.CodeActionKind.QuickFix]))
    def mended(params: types.CodeActionParams) -> list[types.CodeAction]:
        uri, document = params.text_document.uri, server.document(params.text_document.uri)
        places = server.places(document)
        start, end = places.offset(params.range.start), places.offset(params.range.end)
        return [
            types.CodeAction(
                f"{found.code}: {found.help}", types.CodeActionKind.QuickFix,
                [_diagnostic(found, places, uri)], edit=_edit(uri, places, edits),
            )
            for found in document.checked.diagnostics
            if found.primary and found.primary.span.start <= end and start <= found.primary.span.end
            and (edits := mends(document.checked.module, found))
        ]  # fmt: skip

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def outlined(params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        document = server.document(params.text_document.uri)
        module, places = document.checked.module, server.places(document)
        found = _outline(module.declarations, places)
        if module.program.span.source is document.source:
            inner = _outline((*module.program.params, *module.program.body), places)
            found.append(
                _symbol(module.program, module.program.name.id, types.SymbolKind.Function, places, inner)
            )
        return found

    @server.feature(types.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL, _LEGEND)
    def coloured(params: types.SemanticTokensParams) -> types.SemanticTokens:
        document = server.document(params.text_document.uri)
        places, data = server.places(document), list[int]()
        offset, line, character = 0, 0, 0
        for kind, text in pieces(document.source):
            start, end = places.position(offset), places.position(offset + len(text))
            offset += len(text)
            if kind in _COLOURS and start.line == end.line:
                moved = start.character - (character if start.line == line else 0)
                kind_ = _LEGEND.token_types.index(_COLOURS[kind])
                data += [start.line - line, moved, end.character - start.character, kind_, 0]
                line, character = start.line, start.character
        return types.SemanticTokens(data)

    @server.feature(types.TEXT_DOCUMENT_INLAY_HINT)
    def hinted(params: types.InlayHintParams) -> list[types.InlayHint]:
        document = server.document(params.text_document.uri)
        places = server.places(document)
        return [
            types.InlayHint(places.position(places.end(line)), f"  {text}", tooltip="log reward, nats")
            for line, text in server.rewards.get(params.text_document.uri, ())
        ]

    @server.command(LOG_REWARDS)
    async def rewarded(uri: str, row: dict[str, Any]) -> float:
        """The log reward of a row, which has a value for each parameter and latent; its terms become inlay hints."""
        document = server.document(uri)
        try:
            total, terms = await log_rewards(document, row)
        except PlmError as refused:
            raise _refusal(refused) from None
        if server.document(uri) is document:
            server.rewards[uri] = terms
            server.workspace_inlay_hint_refresh(None)
        return total

    return server


def _whole(server: Server, uri: str) -> None:
    """Publishes what `plm check --lint` says, where the text itself has no error."""
    document = server.document(uri)
    try:
        more = [] if document.checked.errors else server.check(document.source)
    except PlmError as wrong:
        more = list(wrong.diagnostics)
    known = set(document.checked.diagnostics)
    server.publish(uri, [d for d in more if d not in known])


def _refusal(refused: PlmError) -> JsonRpcException:
    first = refused.diagnostics[0]
    return JsonRpcException(
        f"{first.code}: {first.message}" + (f"; {first.help}" if first.help else ""), REFUSED
    )


def _edit(uri: str, places: Places, edits: Iterable[tuple[Span, str]]) -> types.WorkspaceEdit:
    return types.WorkspaceEdit({uri: [types.TextEdit(places.range(s.start, s.end), new) for s, new in edits]})


def _outline(items: Iterable[ast.Node], places: Places) -> list[types.DocumentSymbol]:
    found = []
    for item in items:
        inner = _outline(item.body, places) if isinstance(item, ast.Block) else []
        name = getattr(item, "name", None)
        head = item.span.text.partition("{")[0].split("\n")[0].strip()
        title = name.id if isinstance(name, ast.Name) and not isinstance(item, ast.Guide) else head[:60]
        if title and item.span.text:
            kind = _SYMBOLS.get(type(item), types.SymbolKind.Module)
            found.append(_symbol(item, title, kind, places, inner))
    return found


def _symbol(
    item: ast.Node, name: str, kind: types.SymbolKind, places: Places, inner: list[types.DocumentSymbol]
) -> types.DocumentSymbol:
    named = getattr(item, "name", None)
    whole = places.range(item.span.start, item.span.end)
    at = places.range(named.span.start, named.span.end) if isinstance(named, ast.Name) else whole
    return types.DocumentSymbol(name or "program", kind, whole, at, children=inner)
