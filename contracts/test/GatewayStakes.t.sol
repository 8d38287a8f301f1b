// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Merkle} from "./Merkle.sol";
import {UsageFixture} from "./UsageFixture.sol";
import {GatewayStakes} from "../src/GatewayStakes.sol";
import {UsageSettlement} from "../src/UsageSettlement.sol";
import {Receipt} from "../src/libraries/Usage.sol";

/// @notice Stakes of gateways, and what takes them.
contract GatewayStakesTest is UsageFixture {
    address private constant ACCUSER = address(0xACC);
    uint256[] private charged = _amounts(50 ether, 30 ether, 20 ether);
    uint256[] private payouts = _amounts(60 ether, 25 ether, 15 ether);
    address private key;

    function setUp() public override {
        super.setUp();
        key = vm.addr(RECEIPT_KEY);
    }

    function _accuse(Receipt memory one, Receipt memory other) private {
        bytes memory signatures = bytes.concat(
            _signature(RECEIPT_KEY, usage.receiptDigest(one)), _signature(RECEIPT_KEY, usage.receiptDigest(other))
        );
        vm.prank(ACCUSER);
        usage.slashReceipts(one, other, [key, key], signatures);
    }

    function accuse(Receipt memory one, Receipt memory other) external {
        _accuse(one, other);
    }

    function test_StakeComesBackAfterTheDelay() public {
        vm.startPrank(GATEWAY);
        usage.stake(50 ether);
        usage.requestUnstake(50 ether);
        uint256 ready = block.timestamp + WITHDRAWAL;
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, ready));
        usage.unstake();
        vm.warp(ready);
        vm.assertEq(usage.unstake(), 50 ether);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.BalanceTooLow.selector, MIN_STAKE, MIN_STAKE + 1));
        usage.requestUnstake(MIN_STAKE + 1);
        vm.stopPrank();
        vm.assertEq(token.balanceOf(GATEWAY), 900 ether);
    }

    function test_TwoReceiptsOfARequestAreSlashed() public {
        _accuse(_receipt("one", 5), _receipt("one", 6));
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 50 ether);
        vm.assertEq(token.balanceOf(ACCUSER), 5 ether);
        vm.assertEq(token.balanceOf(SINK), 45 ether);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.RequestPunished.selector, GATEWAY, bytes32("one")));
        this.accuse(_receipt("one", 5), _receipt("one", 7));
        _accuse(_receipt("two", 5), _receipt("two", 6));
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 25 ether);
    }

    /// @dev Any field makes another receipt, and none of them is forgotten by the digest.
    function test_EveryFieldMakesAnotherReceipt() public {
        for (uint256 field = 2; field < 10; ++field) {
            bytes32 request = bytes32(field);
            bytes memory words = abi.encode(_receipt(request, 5));
            assembly ("memory-safe") {
                let word := add(add(words, 32), mul(field, 32))
                mstore(word, xor(mload(word), 1))
            }
            uint256 before = usage.stakeOf(GATEWAY).amount;
            _accuse(_receipt(request, 5), abi.decode(words, (Receipt)));
            vm.assertEq(usage.stakeOf(GATEWAY).amount, before - before / 2);
        }
    }

    function test_OneReceiptIsNoConflict() public {
        bytes32 digest = usage.receiptDigest(_receipt("one", 5));
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.SameReceipt.selector, digest));
        this.accuse(_receipt("one", 5), _receipt("one", 5));
        vm.expectRevert(GatewayStakes.DifferentRequests.selector);
        this.accuse(_receipt("one", 5), _receipt("two", 5));
        Receipt memory other = _receipt("one", 5);
        other.gateway = STRANGER;
        vm.expectRevert(GatewayStakes.DifferentRequests.selector);
        this.accuse(_receipt("one", 5), other);
    }

    function test_OnlyReceiptKeysCount() public {
        (Receipt memory one, Receipt memory other) = (_receipt("one", 5), _receipt("one", 6));
        bytes memory signatures =
            bytes.concat(_signature(RECEIPT_KEY, usage.receiptDigest(one)), _signature(7, usage.receiptDigest(other)));
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReceiptKey.selector, GATEWAY, vm.addr(7)));
        usage.slashReceipts(one, other, [key, vm.addr(7)], signatures);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.SignedByAnother.selector, key, usage.receiptDigest(other)));
        usage.slashReceipts(one, other, [key, key], signatures);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReceiptKey.selector, GATEWAY, vm.addr(7)));
        usage.slashReceipts(other, one, [vm.addr(7), key], signatures);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.WrongSignatureLength.selector, 128, 64));
        usage.slashReceipts(one, other, [key, key], new bytes(64));
        vm.prank(GATEWAY); // a second deployment of the same gateway
        usage.setReceiptKey(vm.addr(7), true);
        usage.slashReceipts(one, other, [key, vm.addr(7)], signatures);
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 50 ether);
    }

    function test_FirstSignatureIsCheckedToo() public {
        (Receipt memory one, Receipt memory other) = (_receipt("one", 5), _receipt("one", 6));
        bytes memory signatures =
            bytes.concat(_signature(7, usage.receiptDigest(one)), _signature(RECEIPT_KEY, usage.receiptDigest(other)));
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.SignedByAnother.selector, key, usage.receiptDigest(one)));
        usage.slashReceipts(one, other, [key, key], signatures);
    }

    /// @dev A key that was taken back counts for as long as a stake takes to come out, and no longer.
    function test_RetiredKeyCountsForADelay() public {
        vm.prank(GATEWAY);
        usage.setReceiptKey(key, false);
        vm.prank(GATEWAY);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReceiptKey.selector, GATEWAY, key));
        usage.setReceiptKey(key, false);
        vm.warp(block.timestamp + WITHDRAWAL);
        _accuse(_receipt("one", 5), _receipt("one", 6));
        vm.warp(block.timestamp + 1);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReceiptKey.selector, GATEWAY, key));
        this.accuse(_receipt("two", 5), _receipt("two", 6));
        vm.prank(GATEWAY);
        vm.expectRevert(GatewayStakes.ZeroAccount.selector);
        usage.setReceiptKey(address(0), true);
    }

    /// @dev What was asked for back is slashed until it is out.
    function test_StakeThatLeavesIsSlashed() public {
        vm.prank(GATEWAY);
        usage.requestUnstake(MIN_STAKE);
        vm.warp(block.timestamp + WITHDRAWAL);
        _accuse(_receipt("one", 5), _receipt("one", 6));
        vm.prank(GATEWAY);
        vm.assertEq(usage.unstake(), 50 ether);
        _accuse(_receipt("two", 5), _receipt("two", 6)); // nothing is left, and nothing reverts
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 0);
    }

    function test_AccusingItselfCostsNineTenths() public {
        (Receipt memory one, Receipt memory other) = (_receipt("one", 5), _receipt("one", 6));
        bytes memory signatures = bytes.concat(
            _signature(RECEIPT_KEY, usage.receiptDigest(one)), _signature(RECEIPT_KEY, usage.receiptDigest(other))
        );
        vm.prank(GATEWAY);
        usage.slashReceipts(one, other, [key, key], signatures);
        vm.assertEq(token.balanceOf(GATEWAY), 905 ether);
        vm.prank(GATEWAY);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.StakeTooLow.selector, MIN_STAKE, 50 ether));
        usage.settleBatch(BOOK, 1, "c", "p", 1);
    }

    // Challenged charges

    function _challenge(uint256 user) private {
        bytes32[] memory proof = Merkle.prove(_tree(users, charged), _leaf(users[user], charged[user]));
        vm.prank(ACCUSER);
        usage.challengeCharge(GATEWAY, BOOK, 1, users[user], uint128(charged[user]), proof);
    }

    function challenge(uint256 user) external {
        _challenge(user);
    }

    function _slashUncollected(uint256 user) private {
        usage.slashUncollected(GATEWAY, BOOK, users[user], uint128(charged[user]));
    }

    function slashUncollected(uint256 user) external {
        _slashUncollected(user);
    }

    /// @dev One unit above the cap: it cannot be collected, and the gateway is slashed for it.
    function test_LeafAboveItsCapIsSlashed() public {
        charged[0] = CAP + 1;
        usage.deposit(GATEWAY, users[0], 2_000 ether);
        _settle(charged, payouts);
        _challenge(0);
        uint64 deadline = usage.challengeOf(_series(), users[0], CAP + 1).deadline;
        vm.assertEq(deadline, block.timestamp + ACTIVATION + RESPONSE);
        vm.warp(deadline);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.ResponseWindowOpen.selector, deadline));
        this.slashUncollected(0);
        vm.warp(deadline + 1);
        _slashUncollected(0);
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 50 ether);
        vm.assertEq(token.balanceOf(ACCUSER), 5 ether);
        bytes32 leaf = _leaf(users[0], CAP + 1);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NoOpenChallenge.selector, leaf));
        this.slashUncollected(0);
    }

    /// @dev The fake customer: capped as it should be, with no deposit. Its charge would thin out what others get.
    function test_ChargeWithoutDepositIsSlashed() public {
        charged[0] = 900 ether;
        _settle(charged, payouts);
        _activate();
        _collect(1, charged);
        _challenge(0);
        vm.warp(block.timestamp + RESPONSE + 1);
        uint256 snapshot = vm.snapshotState();
        _slashUncollected(0);
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 50 ether);
        vm.revertToState(snapshot);
        usage.deposit(GATEWAY, users[0], 800 ether); // whoever settled it may make up for it
        _collect(1, charged);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AlreadyCollected.selector, users[0], 900 ether));
        this.slashUncollected(0);
    }

    function test_CollectedChargeIsNotChallenged() public {
        _settle(charged, payouts);
        _challenge(1);
        bytes32 leaf = _leaf(users[1], charged[1]);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.ChallengeExists.selector, leaf));
        this.challenge(1);
        _activate();
        _collect(1, charged);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AlreadyCollected.selector, users[0], 50 ether));
        this.challenge(0);
        vm.warp(block.timestamp + RESPONSE + 1);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AlreadyCollected.selector, users[1], 30 ether));
        this.slashUncollected(1);
        leaf = _leaf(users[2], charged[2]);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NoOpenChallenge.selector, leaf));
        this.slashUncollected(2);
    }

    function test_OnlyChargesOfTheBatchAreChallenged() public {
        _settle(charged, payouts);
        bytes32[] memory proof = Merkle.prove(_tree(users, charged), _leaf(users[0], charged[0]));
        bytes32 series = _series();
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NotInBatch.selector, series, 1));
        usage.challengeCharge(GATEWAY, BOOK, 1, users[0], 51 ether, proof);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.UnknownBatch.selector, series, 2));
        usage.challengeCharge(GATEWAY, BOOK, 2, users[0], 50 ether, proof);
    }

    /// @dev A stake that is asked for right after a settlement is still there when the response window is over.
    function test_StakeIsNotOutBeforeTheAnswerIsDue() public {
        charged[0] = CAP + 1;
        _settle(charged, payouts);
        vm.prank(GATEWAY);
        usage.requestUnstake(MIN_STAKE);
        vm.warp(block.timestamp + ACTIVATION);
        _challenge(0);
        vm.warp(block.timestamp + RESPONSE + 1);
        vm.prank(GATEWAY);
        vm.expectRevert();
        usage.unstake();
        _slashUncollected(0);
        vm.assertEq(usage.stakeOf(GATEWAY).amount, 50 ether);
    }
}
