// Starts `convc lsp` for .cnn files; everything else is the server's work.
const { workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = async function () {
  const [command, ...args] = workspace.getConfiguration("convc").get("command");
  client = new LanguageClient(
    "convc",
    "convc",
    { command, args },
    { documentSelector: [{ language: "cnn" }] },
  );
  await client.start();
};

exports.deactivate = function () {
  return client?.stop();
};
