// Compiles the contracts and writes their artifacts into the Python package.
// With --check nothing is written: exit code 1 and one line when a committed artifact differs from its source.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const ARTIFACTS = join(ROOT, "..", "flock_ray", "chain", "artifacts");
const CONTRACTS = [
  "FlockToken", "EmissionController", "TaskRegistry", "RewardDistributor", "EpochSettlement", "StakeVault",
];
const SOURCES = {
  ...Object.fromEntries(CONTRACTS.map((name) => [name, `src/${name}.sol`])),
  TimelockController: "@openzeppelin/contracts/governance/TimelockController.sol",
};
const SETTINGS = {
  evmVersion: "prague",
  optimizer: { enabled: true, runs: 500 },
  metadata: { bytecodeHash: "none" },
  outputSelection: { "*": { "*": ["abi", "evm.bytecode.object"] } },
};

/** Reads an imported file: a package's from node_modules, our own from contracts/. */
function load(path) {
  const folder = path.startsWith("@") ? join(ROOT, "node_modules") : ROOT;
  try {
    return { contents: readFileSync(join(folder, path), "utf8") };
  } catch (error) {
    return { error: error.message };
  }
}

/** Returns the text of each artifact by contract name. */
function compile() {
  const solc = createRequire(import.meta.url)("solc");
  const sources = Object.fromEntries(
    Object.values(SOURCES).map((path) => [path, { content: load(path).contents }]),
  );
  const input = { language: "Solidity", sources, settings: SETTINGS };
  const output = JSON.parse(solc.compile(JSON.stringify(input), { import: load }));
  const errors = (output.errors ?? []).filter((entry) => entry.severity === "error");
  if (errors.length > 0) throw new Error(errors.map((entry) => entry.formattedMessage).join("\n"));
  return Object.fromEntries(
    Object.entries(SOURCES).map(([name, path]) => {
      const { abi, evm } = output.contracts[path][name];
      const artifact = { contractName: name, abi, bytecode: `0x${evm.bytecode.object}` };
      return [name, `${JSON.stringify(artifact, null, 1)}\n`];
    }),
  );
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
  const stale = Object.keys(SOURCES).filter((name) => committed(path(name)) !== artifacts[name]);
  if (stale.length > 0) {
    console.error(`artifacts differ from contracts/src: ${stale.join(", ")}: run node tools/build.mjs and commit them`);
    process.exit(1);
  }
} else {
  mkdirSync(ARTIFACTS, { recursive: true });
  for (const name of Object.keys(SOURCES)) writeFileSync(path(name), artifacts[name]);
}
