// Trees of rewards by OpenZeppelin's merkle-tree package, for the tests of ours.
// In, as JSON: { types, tables: [{ rows, wanted }] }, where `wanted` are positions of rows to prove at once.
// Out: for each table { leaves, root, proofs, multiproof: { leaves, proof, flags } }.
import { StandardMerkleTree } from "@openzeppelin/merkle-tree";
import { readFileSync } from "node:fs";

const { types, tables } = JSON.parse(readFileSync(0, "utf8"));
const trees = tables.map(({ rows, wanted }) => {
  const tree = StandardMerkleTree.of(rows, types);
  const many = tree.getMultiProof(wanted);
  return {
    leaves: rows.map((row) => tree.leafHash(row)),
    root: tree.root,
    proofs: rows.map((_, index) => tree.getProof(index)),
    multiproof: {
      leaves: many.leaves.map((row) => tree.leafHash(row)),
      proof: many.proof,
      flags: many.proofFlags,
    },
  };
});
process.stdout.write(JSON.stringify(trees));
