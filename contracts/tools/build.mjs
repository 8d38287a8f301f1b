// Compiles the contracts and writes their artifacts into the Python package, and with them the compiler's input, from which
// an explorer compiles the same code again.
// With --check nothing is written: exit code 1 and one line when a committed artifact differs from its source.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const ARTIFACTS = join(ROOT, "..", "flock_ray", "chain", "artifacts");
const CONTRACTS = [
  "FlockToken", "EmissionController", "TaskRegistry", "RewardDistributor", "EpochSettlement", "StakeVault",
  "UsageSettlement",
];
const SOURCES = {
  ...Object.fromEntries(CONTRACTS.map((name) => [name, `src/${name}.sol`])),
  TimelockController: "@openzeppelin/contracts/governance/TimelockController.sol",
};
const SETTINGS = {
  evmVersion: "prague",
  optimizer: { enabled: true, runs: 500 },
  metadata: { bytecodeHash: "none" },
};
const OUTPUTS = ["abi", "evm.bytecode.object", "evm.deployedBytecode.object", "evm.deployedBytecode.immutableReferences"];
const INPUT = "standard-input";

/** Reads an imported file: a package's from node_modules, our own from contracts/. */
function load(path) {
  const folder = path.startsWith("@") ? join(ROOT, "node_modules") : ROOT;
  try {
    return { contents: readFileSync(join(folder, path), "utf8") };
  } catch (error) {
    return { error: error.message };
  }
}

/** Runs the compiler; throws its errors. */
function run(solc, sources, settings, callbacks) {
  const output = JSON.parse(solc.compile(JSON.stringify({ language: "Solidity", sources, settings }), callbacks));
  const errors = (output.errors ?? []).filter((entry) => entry.severity === "error");
  if (errors.length > 0) throw new Error(errors.map((entry) => entry.formattedMessage).join("\n"));
  return output;
}

/** Returns all source files, imported ones included, ordered by their paths. */
function allSources(solc) {
  const sources = {};
  const read = (path) => {
    const loaded = load(path);
    if (loaded.contents !== undefined) sources[path] = { content: loaded.contents };
    return loaded;
  };
  for (const path of Object.values(SOURCES)) read(path);
  run(solc, { ...sources }, {}, { import: read }); // no output is selected: it only reads and checks
  return Object.fromEntries(Object.entries(sources).sort(([one], [other]) => (one < other ? -1 : 1)));
}

/** Where the code that stands on the chain lies in the creation code, and in it the places of each immutable. */
function deployedCode(name, creation, { object, immutableReferences }) {
  const at = creation.indexOf(object);
  if (object === "" || at < 0 || at % 2 !== 0) throw new Error(`${name}: the creation code does not hold its runtime code`);
  const places = Object.keys(immutableReferences).sort((one, other) => one - other);
  const immutables = places.map((id) => immutableReferences[id].map(({ start, length }) => {
    if (length !== 32) throw new Error(`${name}: an immutable of ${length} bytes`);
    return start;
  }));
  return { offset: at / 2, length: object.length / 2, immutables };
}

/** Returns the text of each file by name: one for each contract, and the compiler's input. */
function compile() {
  const solc = createRequire(import.meta.url)("solc");
  const sources = allSources(solc);
  const output = run(solc, sources, { ...SETTINGS, outputSelection: { "*": { "*": OUTPUTS } } });
  const compiler = solc.version().replace(/\.Emscripten.*$/, "");
  const texts = Object.entries(SOURCES).map(([name, source]) => {
    const { abi, evm } = output.contracts[source][name];
    const creation = evm.bytecode.object;
    const artifact = {
      contractName: name, source, compiler, abi, bytecode: `0x${creation}`,
      deployed: deployedCode(name, creation, evm.deployedBytecode),
    };
    return [name, artifact];
  });
  const settings = { ...SETTINGS, outputSelection: { "*": { "*": ["abi", "evm.bytecode", "evm.deployedBytecode"] } } };
  texts.push([INPUT, { language: "Solidity", sources, settings }]);
  return Object.fromEntries(texts.map(([name, value]) => [name, `${JSON.stringify(value, null, 1)}\n`]));
}

/** Returns a committed artifact, or null when there is none. */
function committed(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null;
  }
}

const artifacts = compile();
const path = (name) => join(ARTIFACTS, `${name}.json`);
if (process.argv.includes("--check")) {
  const stale = Object.keys(artifacts).filter((name) => committed(path(name)) !== artifacts[name]);
  if (stale.length > 0) {
    console.error(`artifacts differ from contracts/src: ${stale.join(", ")}: run node tools/build.mjs and commit them`);
    process.exit(1);
  }
} else {
  mkdirSync(ARTIFACTS, { recursive: true });
  for (const name of Object.keys(artifacts)) writeFileSync(path(name), artifacts[name]);
}
