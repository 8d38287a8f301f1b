// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";

/// @notice Claims of what settled reports pay.
contract ClaimTest is Fixture {
    uint256[] private earned;

    function setUp() public override {
        super.setUp();
        _run(_terms());
        earned = new uint256[](MEMBERS);
    }

    /// @dev Settles an epoch in which member i earns `amount` * (i + 1); returns the new tree.
    function _pay(uint128 amount) private returns (bytes32[] memory nodes) {
        Report memory report = _report(TASK);
        for (uint256 i; i < MEMBERS; ++i) {
            earned[i] += amount * (i + 1);
            report.rewardsTotal += uint128(amount * (i + 1));
        }
        nodes = _tree(TASK, earned);
        report.rewardsRoot = nodes[0];
        _settle(report);
    }

    function _proof(bytes32[] memory nodes, uint256 index) private view returns (bytes32[] memory) {
        return Merkle.prove(nodes, _leaf(TASK, members[index], earned[index]));
    }

    function test_AnybodyClaimsForAccount() public {
        bytes32[] memory nodes = _pay(1 ether);
        uint256 before = token.balanceOf(members[3]);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.Claimed(TASK, members[3], 4 ether, 4 ether);
        vm.prank(STRANGER);
        distributor.claim(TASK, members[3], 4 ether, _proof(nodes, 3));
        vm.assertEq(token.balanceOf(members[3]), before + 4 ether);
        vm.assertEq(token.balanceOf(STRANGER), 0);
        vm.assertEq(distributor.claimed(TASK, members[3]), 4 ether);
        vm.assertEq(tasks.taskInfo(TASK).claimed, 4 ether);
    }

    function test_ClaimsAreCumulative() public {
        bytes32[] memory nodes = _pay(1 ether);
        bytes32[] memory proof = _proof(nodes, 0);
        distributor.claim(TASK, members[0], 1 ether, proof);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, members[0], 1 ether));
        distributor.claim(TASK, members[0], 1 ether, proof);
        nodes = _pay(2 ether);
        uint256 one = token.balanceOf(members[0]);
        uint256 two = token.balanceOf(members[1]);
        distributor.claim(TASK, members[0], 3 ether, _proof(nodes, 0));
        distributor.claim(TASK, members[1], 6 ether, _proof(nodes, 1)); // the first epoch's unclaimed part too
        vm.assertEq(token.balanceOf(members[0]), one + 2 ether);
        vm.assertEq(token.balanceOf(members[1]), two + 6 ether);
    }

    function test_ClaimsOutliveTask() public {
        _pay(1 ether);
        _pay(1 ether);
        bytes32[] memory nodes = _pay(1 ether);
        vm.assertEq(uint256(tasks.taskInfo(TASK).status), uint256(TaskRegistry.Status.Closed));
        _passWindow();
        for (uint256 i; i < MEMBERS; ++i) {
            tasks.release(TASK, members[i]);
            distributor.claim(TASK, members[i], earned[i], _proof(nodes, i));
            vm.assertEq(_wealth(members[i]), WALLET + earned[i]);
            vm.assertEq(vault.lockable(members[i], CREATOR), WALLET);
        }
        vm.assertEq(token.balanceOf(address(distributor)), 0);
    }

    function testFuzz_OnlyLeavesOfTheTreePay(uint256 index, uint256 cumulative, address account) public {
        bytes32[] memory nodes = _pay(1 ether);
        index = bound(index, 0, MEMBERS - 1);
        bytes32[] memory proof = _proof(nodes, index);
        vm.assume(cumulative != earned[index] && account != members[index]);
        vm.expectRevert(
            abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, members[index], cumulative)
        );
        distributor.claim(TASK, members[index], cumulative, proof);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, account, earned[index]));
        distributor.claim(TASK, account, earned[index], proof);
        // A task without this root, and another chain.
        bytes32 other = keccak256("other task");
        vm.expectRevert(
            abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, other, members[index], earned[index])
        );
        distributor.claim(other, members[index], earned[index], proof);
    }

    function test_NoClaimBeforeFirstRoot() public {
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, members[0], 1));
        distributor.claim(TASK, members[0], 1, new bytes32[](0));
    }

    function test_InnerNodeIsNoLeaf() public {
        bytes32[] memory nodes = _pay(1 ether);
        bytes32[] memory proof = new bytes32[](0);
        vm.assertEq(nodes[0], distributor.accountOf(TASK).root);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, members[0], 1 ether));
        distributor.claim(TASK, members[0], 1 ether, proof);
    }

    /// @dev A quorum that signs leaves above the total takes nothing from stakes, the pool or another task.
    function testFuzz_ClaimsStayWithinCommitted(uint256 forged, uint128 total) public {
        bytes32 other = _run(keccak256("other seed"), _terms());
        uint256 owedOther = _owed(other);

        total = uint128(bound(total, 0, POOL / EPOCHS));
        forged = bound(forged, uint256(total) + 1, type(uint256).max);
        earned[0] = forged;
        bytes32[] memory nodes = _tree(TASK, earned);
        Report memory report = _report(TASK);
        report.rewardsRoot = nodes[0];
        report.rewardsTotal = total;
        _settle(report);
        bytes32[] memory proof = _proof(nodes, 0);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.ClaimExceedsCommitted.selector, total, forged));
        distributor.claim(TASK, members[0], forged, proof);
        vm.assertEq(_owed(other), owedOther);
        _checkHoldings(TASK, other);
    }

    /// @dev Accounts in the order of their leaves, their sums, and the proof for all of them at once.
    function _many(bytes32[] memory nodes, uint256 mask)
        private
        view
        returns (address[] memory accounts, uint256[] memory cumulatives, bytes32[] memory proof, bool[] memory flags)
    {
        accounts = new address[](MEMBERS);
        cumulatives = new uint256[](MEMBERS);
        uint256[] memory wanted = new uint256[](MEMBERS);
        uint256 count;
        for (uint256 position = nodes.length; position-- >= MEMBERS;) {
            for (uint256 i; i < MEMBERS; ++i) {
                if ((mask >> i) & 1 == 0 || nodes[position] != _leaf(TASK, members[i], earned[i])) continue;
                (accounts[count], cumulatives[count], wanted[count]) = (members[i], earned[i], position);
                ++count;
            }
        }
        assembly ("memory-safe") {
            mstore(accounts, count)
            mstore(cumulatives, count)
            mstore(wanted, count)
        }
        (proof, flags) = Merkle.proveMany(nodes, wanted);
    }

    /// @dev A relayer claims for any set of accounts; those that came first themselves are left out, nobody is paid twice.
    function testFuzz_RelayerClaimsForMany(uint256 mask, uint256 early) public {
        mask = bound(mask, 1, (1 << MEMBERS) - 1);
        early = bound(early, 0, MEMBERS - 1);
        bytes32[] memory nodes = _pay(1 ether);
        // Front-running one of the accounts does not make the others' claims fail.
        distributor.claim(TASK, members[early], earned[early], _proof(nodes, early));
        (address[] memory accounts, uint256[] memory cumulatives, bytes32[] memory proof, bool[] memory flags) =
            _many(nodes, mask);
        for (uint256 round; round < 2; ++round) {
            vm.prank(STRANGER);
            distributor.claimMany(TASK, accounts, cumulatives, proof, flags);
        }
        uint256 sum;
        for (uint256 i; i < MEMBERS; ++i) {
            uint256 expected = (mask >> i) & 1 == 1 || i == early ? earned[i] : 0;
            vm.assertEq(token.balanceOf(members[i]), expected);
            sum += expected;
        }
        vm.assertEq(distributor.accountOf(TASK).claimed, sum);
        _checkHoldings(TASK, 0);
    }

    function testFuzz_ManyForgedClaimsAreRefused(uint256 mask, uint256 which, uint256 more) public {
        mask = bound(mask, 1, (1 << MEMBERS) - 1);
        bytes32[] memory nodes = _pay(1 ether);
        (address[] memory accounts, uint256[] memory cumulatives, bytes32[] memory proof, bool[] memory flags) =
            _many(nodes, mask);
        cumulatives[which % accounts.length] += bound(more, 1, POOL);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidMultiProof.selector, TASK));
        distributor.claimMany(TASK, accounts, cumulatives, proof, flags);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.LengthMismatch.selector, accounts.length, 0));
        distributor.claimMany(TASK, accounts, new uint256[](0), proof, flags);
    }

    /// @dev Leaves above the total that a captured quorum signed stop at the total for many as for one.
    function test_ManyClaimsStayWithinCommitted() public {
        _pay(0);
        Report memory report = _report(TASK);
        for (uint256 i; i < MEMBERS; ++i) {
            earned[i] = 100 ether;
        }
        bytes32[] memory nodes = _tree(TASK, earned);
        report.rewardsRoot = nodes[0];
        report.rewardsTotal = 799 ether;
        _settle(report);
        (address[] memory accounts, uint256[] memory cumulatives, bytes32[] memory proof, bool[] memory flags) =
            _many(nodes, 255);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.ClaimExceedsCommitted.selector, 799 ether, 800 ether));
        distributor.claimMany(TASK, accounts, cumulatives, proof, flags);
    }
}
