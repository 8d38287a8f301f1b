// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Fixture} from "./Fixture.sol";
import {Merkle} from "./Merkle.sol";
import {EpochSettlement} from "../src/EpochSettlement.sol";
import {FlockToken} from "../src/FlockToken.sol";
import {RewardDistributor} from "../src/RewardDistributor.sol";
import {StakeVault} from "../src/StakeVault.sol";
import {TaskRegistry} from "../src/TaskRegistry.sol";
import {Report} from "../src/libraries/Reports.sol";
import {Terms} from "../src/libraries/TaskTerms.sol";

/// @notice A token whose transfers fail without a revert.
contract SilentToken is ERC20("Silent", "SIL") {
    function transfer(address, uint256) public pure override returns (bool) {
        return false;
    }
}

/// @notice Bugs that were found in other projects' settlement, claims and tokens, each tried here. Those of staking are in
/// `StakeVaultAttacks.t.sol`, those of the off-chain part in `tests/chain/test_peer_bugs.py`.
contract PeerBugsTest is Fixture {
    uint256[] private earned;

    function setUp() public override {
        super.setUp();
        _run(_terms());
        earned = new uint256[](2);
    }

    /// @dev Settles an epoch under a table of the first two members' rewards.
    function _pay(uint256 first, uint256 second) private returns (bytes32[] memory nodes) {
        (earned[0], earned[1]) = (first, second);
        nodes = _tree(TASK, earned);
        Report memory report = _report(TASK);
        report.rewardsRoot = nodes[0];
        report.rewardsTotal = uint128(first + second);
        _settle(report);
    }

    function _claim(bytes32[] memory nodes, uint256 member) private {
        bytes32[] memory proof = Merkle.prove(nodes, _leaf(TASK, members[member], earned[member]));
        distributor.claim(TASK, members[member], earned[member], proof);
    }

    function _one(address account) private pure returns (address[] memory accounts) {
        accounts = new address[](1);
        accounts[0] = account;
    }

    /// @notice EigenLayer (SigmaPrime 2024): a nonce told two identical submissions apart, and both were paid.
    function test_EigenLayer_IdenticalSubmissionPaidTwice() public {
        Report memory report = _report(TASK);
        earned[0] = 5 ether;
        report.rewardsRoot = _tree(TASK, earned)[0];
        report.rewardsTotal = 5 ether;
        bytes memory all = _sign(report, 15);
        _settle(report);
        vm.expectRevert(
            abi.encodeWithSelector(EpochSettlement.AlreadySettled.selector, 1, settlement.reportHash(report))
        );
        settlement.settle(report, 15, all); // by other seats than before
        vm.assertEq(distributor.accountOf(TASK).committed, 5 ether);
    }

    /// @notice EigenLayer (SigmaPrime 2024): whoever called the initializer first owned the contract.
    function test_EigenLayer_InitializerFrontRun() public {
        FlockToken fresh = new FlockToken(0);
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(FlockToken.Unauthorized.selector, STRANGER));
        fresh.setMinter(STRANGER);
        fresh.setMinter(address(emission));
    }

    /// @notice EigenLayer (SigmaPrime 2024): what rounding left over was stuck.
    function test_EigenLayer_RoundingDustStuck() public {
        Terms memory terms = _terms();
        terms.pool = 1000 ether + 2;
        bytes32 task = _run(SEED, terms);
        uint256 creator = token.balanceOf(CREATOR);
        uint256 held = token.balanceOf(address(distributor));
        for (uint256 left = EPOCHS; left > 0; --left) {
            Report memory report = _report(task);
            report.rewardsTotal += distributor.budget(task, left) - (left == 1 ? 1 : 0);
            report.rewardsRoot = _leaf(task, members[0], report.rewardsTotal);
            _settle(report);
        }
        vm.assertEq(token.balanceOf(CREATOR), creator + 1); // what nobody earned
        distributor.claim(task, members[0], terms.pool - 1, new bytes32[](0));
        vm.assertEq(token.balanceOf(address(distributor)), held - terms.pool);
    }

    /// @notice EigenLayer (Certora 2025): inner nodes, empty proofs and zero leaves passed for claims.
    function test_EigenLayer_EmptyProof() public {
        bytes32[] memory none = new bytes32[](0);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, address(0), 0));
        distributor.claim(TASK, address(0), 0, none); // the root is zero still
        bytes32[] memory nodes = _pay(3 ether, 4 ether);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidProof.selector, TASK, members[0], 3 ether));
        distributor.claim(TASK, members[0], 3 ether, none);

        bytes32[] memory root = new bytes32[](1);
        root[0] = nodes[0];
        distributor.claimMany(TASK, new address[](0), new uint256[](0), root, new bool[](0)); // true, of nobody
        vm.assertEq(distributor.accountOf(TASK).claimed, 0);
        uint256[] memory amounts = new uint256[](1);
        amounts[0] = 3 ether;
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.InvalidMultiProof.selector, TASK));
        distributor.claimMany(TASK, _one(members[0]), amounts, none, new bool[](0));
    }

    /// @notice EigenLayer: nothing tied a root to the funds behind it, so that a wrong one took any balance.
    function test_EigenLayer_RootBeyondItsFunds() public {
        bytes32 other = _run(keccak256("other seed"), _terms());
        Report memory report = _report(TASK);
        report.rewardsTotal = 1 ether;
        report.rewardsRoot = _leaf(TASK, members[0], 2 ether);
        _settle(report);
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.ClaimExceedsCommitted.selector, 1 ether, 2 ether));
        distributor.claim(TASK, members[0], 2 ether, new bytes32[](0));
        vm.assertEq(token.balanceOf(address(distributor)), 2 * POOL);
    }

    /// @notice The Graph Horizon (Trust M-10): a voucher was collected twice.
    function test_TrustM10_VoucherCollectedTwice() public {
        bytes32[] memory nodes = _pay(3 ether, 4 ether);
        _claim(nodes, 0);
        bytes32[] memory proof = Merkle.prove(nodes, _leaf(TASK, members[0], 3 ether));
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, members[0], 3 ether));
        distributor.claim(TASK, members[0], 3 ether, proof);
        uint256[] memory amounts = new uint256[](1);
        amounts[0] = 3 ether;
        distributor.claimMany(TASK, _one(members[0]), amounts, proof, new bool[](1));
        vm.assertEq(_wealth(members[0]), WALLET + 3 ether);
    }

    /// @notice The Graph Horizon (Trust M-9): stake was out of reach before the arbitrator's time to slash it was over.
    function test_TrustM9_StakeGoneBeforeTheDeadline() public {
        address member = members[0];
        vm.startPrank(member);
        vault.unstake(WALLET);
        uint32 epoch = vault.currentEpoch();
        vm.stopPrank();
        vm.warp(block.timestamp + (UNBONDING + 1) * VAULT_EPOCH); // it has thawed long before the task's end
        for (uint256 i; i < EPOCHS; ++i) {
            _settle(_report(TASK));
        }
        vm.warp(block.timestamp + EVIDENCE_WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(TaskRegistry.EvidenceWindowOpen.selector, block.timestamp + 1));
        tasks.release(TASK, member);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, STAKE, 0));
        vm.prank(member);
        vault.withdrawStake(epoch);
        bytes memory both = bytes.concat(
            _signedBy(member, settlement.messageDigest(TASK, 3, "seed", "acknowledgement", "first")),
            _signedBy(member, settlement.messageDigest(TASK, 3, "seed", "acknowledgement", "second"))
        );
        settlement.slashEquivocation(TASK, member, 3, "seed", "acknowledgement", "first", "second", both);
        vm.assertEq(tasks.memberAt(TASK, 0).stake, STAKE / 2);

        vm.warp(block.timestamp + 1);
        tasks.release(TASK, member);
        vm.prank(member);
        vm.assertEq(vault.withdrawStake(epoch), WALLET - STAKE / 2);
    }

    /// @notice Footium (Sherlock): a new root that was not cumulative took what had not been claimed.
    function test_Footium_NewRootLosesUnclaimed() public {
        _pay(3 ether, 4 ether);
        _claim(_pay(3 ether, 9 ether), 0);
        vm.assertEq(_wealth(members[0]), WALLET + 3 ether);
    }

    /// @notice Prime Intellect: the entry was deleted before its amount was emitted, and the event told zero.
    function test_PrimeIntellect_EventTellsZero() public {
        bytes32[] memory nodes = _pay(3 ether, 4 ether);
        vm.expectEmit(address(distributor));
        emit RewardDistributor.Claimed(TASK, members[1], 4 ether, 4 ether);
        _claim(nodes, 1);
    }

    /// @notice Prime Intellect: a transfer that failed without a revert counted as a payment.
    function test_PrimeIntellect_IgnoredTransferResult() public {
        IERC20 silent = new SilentToken();
        RewardDistributor paying = new RewardDistributor(silent, address(this), address(this), vault, 0, ADMIN);
        paying.deposit(TASK, 1, 0);
        bytes32 leaf = keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(paying), TASK, members[0], uint256(1))))
        );
        paying.commit(TASK, leaf, 1, 1);
        vm.expectRevert(abi.encodeWithSelector(SafeERC20.SafeERC20FailedOperation.selector, address(silent)));
        paying.claim(TASK, members[0], 1, new bytes32[](0));
        vm.assertEq(paying.claimed(TASK, members[0]), 0);
    }

    /// @notice Psyche: the seed came from clock fields that the leader chooses.
    function test_Psyche_SeedFromClock() public {
        Terms memory terms = _terms();
        terms.termsHash = keccak256("other terms");
        bytes32 other = _run(SEED, terms);
        bytes32[2] memory ids = [TASK, other];
        for (uint256 i; i < 2; ++i) {
            Report memory report = _report(ids[i]);
            report.revealsDigest = keccak256("reveals");
            vm.warp(block.timestamp + 77);
            vm.roll(block.number + 5);
            vm.prevrandao(bytes32(i));
            _settle(report);
        }
        vm.assertEq(tasks.taskInfo(TASK).seed, tasks.taskInfo(other).seed);
    }

    /// @notice Psyche: earned less claimed wrapped around once the earned points had been replaced by fewer.
    function test_Psyche_EarnedBelowClaimed() public {
        _claim(_pay(3 ether, 4 ether), 0);
        bytes32[] memory nodes = _pay(2 ether, 6 ether); // shifted by a quorum: the sum does not fall
        bytes32[] memory proof = Merkle.prove(nodes, _leaf(TASK, members[0], 2 ether));
        vm.expectRevert(abi.encodeWithSelector(RewardDistributor.NothingToClaim.selector, members[0], 3 ether));
        distributor.claim(TASK, members[0], 2 ether, proof);
        vm.assertEq(distributor.accountOf(TASK).claimed, 3 ether);
    }

    /// @notice FLock: a round's pot depended on who had claimed before.
    function test_Flock_PotDependsOnClaims() public {
        bytes32[] memory nodes = _pay(300 ether, 400 ether);
        uint128 before = distributor.budget(TASK, 2);
        _claim(nodes, 0);
        _claim(nodes, 1);
        vm.assertEq(distributor.budget(TASK, 2), before);
    }

    /// @notice OpenZeppelin: `ERC20Capped` caps what there is, so that a burn re-opens room to mint.
    function test_OpenZeppelin_BurnReopensCap() public {
        FlockToken fresh = new FlockToken(1e27);
        fresh.setMinter(address(this));
        fresh.burn(1 ether);
        vm.expectRevert(abi.encodeWithSelector(FlockToken.CapExceeded.selector, 1, 0));
        fresh.mint(address(this), 1);
    }
}
