// The client of `plm lsp`: starts the server, and shows the log rewards of a row where they are asked for.
"use strict";

const vscode = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;
let lastRow = "{}";

async function activate(context) {
  const [command, ...args] = vscode.workspace.getConfiguration("plm").get("command");
  client = new LanguageClient("plm", "posterior_lm", { command, args }, { documentSelector: [{ language: "plm" }] });
  context.subscriptions.push(vscode.commands.registerCommand("plm.showLogRewards", showLogRewards));
  try {
    await client.start();
  } catch {
    const start = [command, ...args].join(" ");
    vscode.window.showErrorMessage(`${start} did not start: pip install "posterior_lm[lsp]", or set plm.command`);
  }
}

async function showLogRewards() {
  const document = vscode.window.activeTextEditor?.document;
  const text = document && (await vscode.window.showInputBox({
    prompt: "A value for each parameter and latent, as JSON",
    value: lastRow,
    validateInput: (typed) => { try { JSON.parse(typed); } catch (wrong) { return wrong.message; } },
  }));
  if (text === undefined) return;
  lastRow = text;
  try {
    const total = await client.sendRequest("workspace/executeCommand", {
      command: "plm.logRewards", arguments: [document.uri.toString(), JSON.parse(text)],
    });
    vscode.window.setStatusBarMessage(`log reward ${total.toFixed(3)} nats`, 20000);
  } catch (refused) {
    vscode.window.showErrorMessage(refused.message);
  }
}

module.exports = { activate, deactivate: () => client?.stop() };
