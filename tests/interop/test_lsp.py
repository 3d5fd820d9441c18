"""`plm lsp` as an editor speaks with it: over standard input and output, with pytest-lsp's client."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.cli import plm
from tests.conftest import ROOT
from tests.unit.test_editors import long_program

pytest_lsp = pytest.importorskip("pytest_lsp", reason="the extra `lsp` is not installed")
types = pytest.importorskip("lsprotocol.types")
JsonRpcException = pytest.importorskip("pygls.exceptions").JsonRpcException

URI = "file:///nowhere/story.plm"
TEXT = (ROOT / "programs" / "story_infilling.plm").read_text(encoding="utf-8")

STORY_OF_CATS = 'lm base = "tiny"\nprogram p() { latent z: text(tokens=1..5) ~ base("\N{CAT FACE}") observe "a" ~ bsae(z) }\n'


class Editor:
    """A client with one file open."""

    def __init__(self, client: Any) -> None:
        self.client, self.version, self.text = client, 0, ""
        self.document = types.TextDocumentIdentifier(URI)

    async def open(self, text: str) -> list[Any]:
        self.text = text
        item = types.TextDocumentItem(URI, "plm", 0, text)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return await self.published()

    async def type(self, text: str) -> list[Any]:
        """What is published after the text became this."""
        self.text, self.version = text, self.version + 1
        document = types.VersionedTextDocumentIdentifier(self.version, URI)
        change = types.TextDocumentContentChangeWholeDocument(text)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [change]))
        return await self.published()

    async def published(self) -> list[Any]:
        await self.client.wait_for_notification(types.TEXT_DOCUMENT_PUBLISH_DIAGNOSTICS)
        return list(self.client.diagnostics[URI])

    def at(self, before: str, occurrence: int = 0) -> Any:
        """The place where a part of the text begins."""
        offset = -1
        for _ in range(occurrence + 1):
            offset = self.text.index(before, offset + 1)
        line = self.text.count("\n", 0, offset)
        return types.Position(line, offset - (self.text.rfind("\n", 0, offset) + 1))

    def edited(self, edits: list[Any]) -> str:
        """The text with edits made in it."""
        starts, text = [0], self.text
        for line in text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for edit in sorted(edits, key=lambda e: (e.range.start.line, e.range.start.character), reverse=True):
            start, end = (starts[p.line] + p.character for p in (edit.range.start, edit.range.end))
            text = text[:start] + edit.new_text + text[end:]
        return text


def session(steps: Callable[[Editor], Awaitable[None]]) -> None:
    """Runs steps against a server of their own, and closes it as an editor does."""

    async def run() -> None:
        command = [sys.executable, "-m", "posterior_lm", "lsp"]
        client = await pytest_lsp.ClientServerConfig(server_command=command).start()
        capabilities = pytest_lsp.client_capabilities("visual-studio-code")
        try:
            await client.initialize_session(
                types.InitializeParams(capabilities=capabilities, root_uri=ROOT.as_uri())
            )
            await steps(Editor(client))
        finally:
            await client.shutdown_session()
            await client.stop()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_an_editor_writes_a_program() -> None:
    async def steps(editor: Editor) -> None:
        client, document = editor.client, editor.document
        assert await editor.open(TEXT) == []

        wrong = await editor.type(TEXT.replace("base(opening, middle)", "bsae(opening, middle)"))
        assert [(d.code, d.severity) for d in wrong] == [("PLM201", types.DiagnosticSeverity.Error)]
        assert wrong[0].range.start == editor.at("bsae") and "did you mean 'base'?" in wrong[0].message
        asked = types.CodeActionParams(document, wrong[0].range, types.CodeActionContext(wrong))
        (action,) = await client.text_document_code_action_async(asked)
        assert editor.edited(action.edit.changes[URI]) == TEXT
        assert await editor.type(TEXT) == []

        found = await client.text_document_hover_async(types.HoverParams(document, editor.at("middle:")))
        assert "latent: text" in found.contents.value and "reads `opening`" in found.contents.value
        place = types.DefinitionParams(document, editor.at("middle)"))
        assert (await client.text_document_definition_async(place)).range.start == editor.at("middle:")
        context = types.ReferenceContext(include_declaration=True)
        uses = await client.text_document_references_async(
            types.ReferenceParams(context, document, editor.at("middle:"))
        )
        assert [u.range.start for u in uses] == [editor.at("middle", k) for k in (0, 1, 2)]
        renamed = await client.text_document_rename_async(
            types.RenameParams(document, editor.at("middle)"), "bridge")
        )
        assert editor.edited(renamed.changes[URI]) == TEXT.replace("middle", "bridge")
        outline = await client.text_document_document_symbol_async(types.DocumentSymbolParams(document))
        assert [s.name for s in outline] == ["base", "story_infilling"]
        assert [s.name for s in outline[1].children][:3] == ["opening", "ending", "middle"]

        await editor.type(TEXT.replace("  latent", "      latent"))
        options = types.FormattingOptions(tab_size=2, insert_spaces=True)
        edits = await client.text_document_formatting_async(types.DocumentFormattingParams(document, options))
        assert editor.edited(edits) == TEXT

        half = TEXT.replace("base(opening, middle)", "")
        await editor.type(half)
        before = editor.at(" ~ \n", 0)
        items = await client.text_document_completion_async(
            types.CompletionParams(document, types.Position(before.line, before.character + 3))
        )
        assert {"base", "uniform"} <= {i.label for i in items} and "opening" not in {i.label for i in items}

    session(steps)


def test_opening_a_file_says_what_plm_check_says() -> None:
    text = "program p() {\n  latent n: int(0..9) ~ uniform()\n  condition n > 20\n}\n"

    async def steps(editor: Editor) -> None:
        assert [d.code for d in await editor.open(text)] == ["PLM340"]
        assert await editor.type(text.replace("20", "2")) == []

    session(steps)


def test_characters_are_counted_as_the_editor_counts_them() -> None:
    async def steps(editor: Editor) -> None:
        (wrong,) = await editor.open(STORY_OF_CATS)
        line = STORY_OF_CATS.split("\n")[wrong.range.start.line]
        before = line[: line.index("bsae")]
        assert wrong.range.start.character == len(before.encode("utf-16-le")) // 2 == len(before) + 1

    session(steps)


def test_log_rewards_of_a_row_stand_behind_the_statements() -> None:
    row = {"opening": "Mia has a cat.", "ending": "She is happy.", "middle": " She likes it."}

    async def steps(editor: Editor) -> None:
        client = editor.client
        await editor.open(TEXT)
        wanted = types.ExecuteCommandParams("plm.logRewards", [URI, row])
        total = await client.workspace_execute_command_async(wanted)
        assert total == pytest.approx(-62.4798, abs=1e-3)
        whole = types.Range(types.Position(0, 0), types.Position(99, 0))
        asked = types.InlayHintParams(editor.document, whole)
        hints = await client.text_document_inlay_hint_async(asked)
        ends = [len(line) for line in TEXT.split("\n")]
        assert [(h.position.line, h.position.character, h.label.strip()) for h in hints] == [
            (4, ends[4], "-32.39"),
            (5, ends[5], "-30.09"),
        ]
        await editor.type(TEXT + "\n")
        assert not await client.text_document_inlay_hint_async(asked)
        with pytest.raises(JsonRpcException, match=r"PLM811: .*`opening` has no value"):
            await client.workspace_execute_command_async(
                types.ExecuteCommandParams("plm.logRewards", [URI, {}])
            )

    session(steps)


def test_what_an_editor_may_send_at_any_time() -> None:
    """A name that cannot be given, a file that was never opened, halves of a program as fast as keys are pressed."""

    async def steps(editor: Editor) -> None:
        client = editor.client
        other = types.TextDocumentIdentifier("file:///nowhere/other.plm")
        assert await client.text_document_hover_async(types.HoverParams(other, types.Position(3, 3))) is None
        await editor.open(TEXT)
        with pytest.raises(JsonRpcException, match="PLM203"):
            await client.text_document_rename_async(
                types.RenameParams(editor.document, editor.at("middle:"), "words")
            )
        for end in range(0, len(TEXT), 7):
            found = await editor.type(TEXT[:end] + ("\ud800" if end % 3 else ""))
            place = types.Position(editor.text.count("\n"), 80)
            await client.text_document_completion_async(types.CompletionParams(editor.document, place))
            assert found or end == 0 or "}" in TEXT[:end]
        assert await editor.type(TEXT) == []
        tokens = await client.text_document_semantic_tokens_full_async(
            types.SemanticTokensParams(editor.document)
        )
        assert list(tokens.data[:5]) == [0, 0, 50, 0, 0]  # the comment of the first line
        assert not client.log_messages and not client.messages

    session(steps)


def test_an_answer_comes_between_two_keys() -> None:
    """The figure of a quiet machine is 50 ms, from the key to the diagnostics, on 200 lines; this is a loaded one."""

    async def steps(editor: Editor) -> None:
        text = long_program()
        await editor.open(text)
        times = []
        for key in range(1, 9):
            started = time.perf_counter()
            found = await editor.type(text.replace("not too long", "not too long"[:key]))
            times.append(time.perf_counter() - started)
            assert found == []
        print(
            f"200 lines: {1000 * min(times):.0f} ms at best, {1000 * sorted(times)[4]:.0f} ms in the middle"
        )
        assert min(times) < 0.5

    session(steps)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posterior_lm.cli.lsp.find_spec", lambda name: None)
    done = plm("lsp")
    assert done.exit_code == 1 and "error[PLM810]" in done.stderr and "posterior_lm[lsp]" in done.stderr
