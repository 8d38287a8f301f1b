// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {Report} from "../src/libraries/Reports.sol";

/// @notice What the tests of the audit's findings share; docs/audit.md tells which test holds which finding.
abstract contract AuditBase is Fixture {
    bytes32 internal constant TAG_SEED = keccak256("flock_ray/seed/1");

    /// @dev A funded account with a known key.
    function _person(uint256 key, uint256 amount) internal returns (address account) {
        account = vm.addr(key);
        keys[account] = key;
        _give(account, amount);
        vm.prank(account);
        token.approve(address(tasks), type(uint256).max);
    }

    /// @dev The same, with all of it at stake.
    function _staker(uint256 key, uint256 amount) internal returns (address account) {
        account = _person(key, amount);
        vm.prank(account);
        vault.stake(amount);
    }

    /// @dev Past the time after which a pool serves a creator that was added now, and whatever came in earns.
    function _passDelays() internal {
        vm.warp(block.timestamp + (UNBONDING + 1) * VAULT_EPOCH);
    }

    function _list(address operator, address creator) internal {
        vm.prank(operator);
        vault.addCreator(creator);
    }

    /// @dev Two messages of one kind that an account signed for one epoch.
    function _contradiction(address account, uint64 epoch, string memory kind) internal view returns (bytes memory) {
        return bytes.concat(
            _signedBy(account, settlement.messageDigest(TASK, epoch, "seed", kind, "one")),
            _signedBy(account, settlement.messageDigest(TASK, epoch, "seed", kind, "other"))
        );
    }

    /// @dev Settles the next epoch with all of its budget for member 0.
    function _settlePaying(uint256 epochsLeft) internal {
        Report memory report = _report(TASK);
        report.rewardsTotal += distributor.budget(TASK, epochsLeft);
        report.rewardsRoot = _leaf(TASK, members[0], report.rewardsTotal);
        _settle(report);
    }

    /// @dev Claims for several of the members at once, as a relayer does.
    function _claimMany(bytes32[] memory nodes, uint256[] memory earned, uint256 count) internal {
        address[] memory accounts = new address[](count);
        uint256[] memory cumulatives = new uint256[](count);
        uint256[] memory wanted = new uint256[](count);
        uint256 found;
        for (uint256 position = nodes.length; position-- > nodes.length / 2;) {
            for (uint256 i; i < count; ++i) {
                if (nodes[position] != _leaf(TASK, members[i], earned[i])) continue;
                (accounts[found], cumulatives[found], wanted[found]) = (members[i], earned[i], position);
                ++found;
            }
        }
        (bytes32[] memory proof, bool[] memory flags) = Merkle.proveMany(nodes, wanted);
        distributor.claimMany(TASK, accounts, cumulatives, proof, flags);
    }
}
