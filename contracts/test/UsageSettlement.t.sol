// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {UsageFixture} from "./UsageFixture.sol";
import {GatewayStakes, UsageSettings} from "../src/GatewayStakes.sol";
import {UsageSettlement} from "../src/UsageSettlement.sol";
import {Charge} from "../src/libraries/Usage.sol";

/// @notice Deposits, batches, what is collected and what is paid.
contract UsageSettlementTest is UsageFixture {
    uint256[] private charged = _amounts(50 ether, 30 ether, 20 ether);
    uint256[] private payouts = _amounts(60 ether, 25 ether, 15 ether);

    function test_BatchIsCollectedAndPaid() public {
        uint64 number = _settle(charged, payouts);
        vm.assertEq(token.balanceOf(address(usage)), 400 ether); // settling moves nothing
        _activate();
        vm.assertEq(_collect(number, charged), 100 ether);
        for (uint256 i; i < 3; ++i) {
            vm.assertEq(usage.depositOf(GATEWAY, users[i]).amount, 100 ether - charged[i]);
            vm.assertEq(_claim(number, payouts, i), payouts[i]);
            vm.assertEq(token.balanceOf(payees[i]), payouts[i]);
        }
        _checkHoldings();
    }

    function test_SecondBatchPaysWhatTheFirstDidNot() public {
        _settle(charged, payouts);
        _activate();
        _collect(1, charged);
        _claim(1, payouts, 0);
        uint256[] memory more = _amounts(60 ether, 30 ether, 40 ether);
        uint256[] memory later = _amounts(70 ether, 35 ether, 25 ether);
        _settle(more, later);
        _activate();
        vm.assertEq(_collect(2, more), 30 ether);
        vm.assertEq(_claim(2, later, 0), 10 ether);
        vm.assertEq(_claim(2, later, 1), 35 ether);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NothingToClaim.selector, payees[1], 35 ether));
        this.claim(1, payouts, 1); // an older root gives nothing twice
        _checkHoldings();
    }

    function claim(uint64 number, uint256[] memory amounts, uint256 payee) external returns (uint256) {
        return _claim(number, amounts, payee);
    }

    function claimShort(uint64 number, uint256[] memory before, uint256[] memory amounts, uint256 payee)
        external
        returns (uint256)
    {
        return _claimShort(number, before, amounts, payee);
    }

    function collect(uint64 number, uint256[] memory amounts) external returns (uint256) {
        return _collect(number, amounts);
    }

    function collectOne(uint64 number, uint256[] memory amounts, uint256 user, Charge memory cap, bytes memory signed)
        external
        returns (uint256)
    {
        return _collectOne(number, amounts, user, cap, signed);
    }

    /// @dev A user with too small a deposit pays what it has, and the rest once it deposits again.
    function test_ShortBatchPaysProRataAndIsFilledLater() public {
        charged[0] = 150 ether; // 200 in all, 150 of it there
        payouts = _amounts(100 ether, 60 ether, 40 ether);
        _settle(charged, payouts);
        _activate();
        vm.assertEq(_collect(1, charged), 150 ether);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.BatchShort.selector, 200 ether, 150 ether));
        this.claim(1, payouts, 0);
        vm.assertEq(_claimShort(1, new uint256[](0), payouts, 0), 75 ether);
        vm.assertEq(_claimShort(1, new uint256[](0), payouts, 1), 45 ether);
        usage.deposit(GATEWAY, users[0], 50 ether);
        vm.assertEq(_collect(1, charged), 50 ether);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.BatchNotFilling.selector, 0, 200 ether, 200 ether));
        this.claimShort(1, new uint256[](0), payouts, 0);
        vm.assertEq(_claim(1, payouts, 0), 25 ether);
        vm.assertEq(_claim(1, payouts, 1), 15 ether);
        vm.assertEq(_claim(1, payouts, 2), 40 ether);
        _checkHoldings();
        vm.assertEq(usage.booksOf(_series()).paid, 200 ether);
    }

    /// @dev What comes in fills the first batch first, whichever batch it was collected for.
    function test_BatchesFillInTheirOrder() public {
        charged[0] = 150 ether;
        payouts = _amounts(100 ether, 60 ether, 40 ether);
        _settle(charged, payouts);
        uint256[] memory more = _amounts(150 ether, 60 ether, 70 ether); // 80 more
        uint256[] memory later = _amounts(180 ether, 60 ether, 40 ether); // all of it the first payee's
        _settle(more, later);
        _activate();
        vm.assertEq(_collect(2, more), 230 ether);
        vm.assertEq(_claim(1, payouts, 2), 40 ether); // the first is full
        vm.assertEq(_claimShort(2, payouts, later, 0), 130 ether); // 100, and 80 * 30 / 80
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NothingToClaim.selector, payees[2], 40 ether));
        this.claimShort(2, payouts, later, 2);
        vm.assertEq(_claimShort(2, payouts, later, 1), 60 ether);
        _checkHoldings();
    }

    /// @dev The later batch pays nothing while the one before it is not full.
    function test_LaterBatchWaits() public {
        charged[0] = 150 ether;
        payouts = _amounts(100 ether, 60 ether, 40 ether);
        _settle(charged, payouts);
        uint256[] memory later = _amounts(110 ether, 60 ether, 40 ether);
        _settle(_amounts(160 ether, 30 ether, 20 ether), later);
        _activate();
        _collect(1, charged);
        vm.expectRevert(
            abi.encodeWithSelector(UsageSettlement.BatchNotFilling.selector, 200 ether, 210 ether, 150 ether)
        );
        this.claimShort(2, payouts, later, 0);
        vm.assertEq(_claimShort(1, new uint256[](0), payouts, 0), 75 ether);
    }

    /// @dev Whoever leaves out what the batch before gave it gets less, not more.
    function testFuzz_LeavingOutTheBatchBeforeBringsNothing(uint256 had, uint256 gets, uint256 size) public {
        had = bound(had, 1, 100 ether);
        size = bound(size, 100 ether + 1, 800 ether); // of the second batch: 100 of it are collected
        gets = bound(gets, had, had + size);
        charged = _amounts(50 ether, 50 ether, 0);
        payouts = _amounts(had, 100 ether - had, 0);
        _settle(charged, payouts);
        uint256[] memory more = _amounts(50 ether, 50 ether, size);
        uint256[] memory later = _amounts(gets, 100 ether + size - gets, 0);
        _settle(more, later);
        _activate();
        _collect(2, more);
        uint256 honest = had + (gets - had) * 100 ether / size;
        uint256 snapshot = vm.snapshotState();
        vm.assertEq(_claimShort(2, payouts, later, 0), honest);
        vm.revertToState(snapshot);
        vm.assertLe(_claimShort(2, new uint256[](0), later, 0), honest, "more without the batch before");
    }

    /// @dev Whoever claims to have had more in the batch before would get more of the one that is filling.
    function test_WhatTheBatchBeforeGaveIsProven() public {
        _settle(charged, payouts);
        uint256[] memory later = _amounts(160 ether, 25 ether, 15 ether);
        _settle(_amounts(50 ether, 30 ether, 120 ether), later);
        _activate();
        _collect(1, charged);
        UsageSettlement.Payout memory before = _payout(payouts, 0);
        UsageSettlement.Payout memory payout = _payout(later, 0);
        before.cumulative += 1;
        bytes memory refused = abi.encodeWithSelector(UsageSettlement.NotInBatch.selector, _series(), 1);
        vm.expectRevert(refused);
        usage.claimShort(GATEWAY, BOOK, 2, payees[0], before, payout);
        before.cumulative -= 1;
        vm.assertEq(usage.claimShort(GATEWAY, BOOK, 2, payees[0], before, payout), 60 ether);
    }

    function test_PayoutsThatFallAreRefused() public {
        _settle(charged, payouts);
        uint256[] memory later = _amounts(59 ether, 26 ether, 55 ether);
        uint256[] memory more = _amounts(150 ether, 30 ether, 20 ether);
        more[1] = 30 ether;
        _settle(more, later);
        _activate();
        _collect(1, charged);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.PayoutDecreased.selector, 60 ether, 59 ether));
        this.claimShort(2, payouts, later, 0);
    }

    function test_NothingIsTakenTwice() public {
        _settle(charged, payouts);
        _activate();
        _collect(1, charged);
        vm.assertEq(_collect(1, charged), 0);
        _claim(1, payouts, 0);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NothingToClaim.selector, payees[0], 60 ether));
        this.claim(1, payouts, 0);
        vm.assertEq(usage.booksOf(_series()).collected, 100 ether);
    }

    function test_OnlyActiveBatchesMoveMoney() public {
        _settle(charged, payouts);
        uint256 from = block.timestamp + ACTIVATION;
        vm.warp(from - 1);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NotActive.selector, from));
        this.collect(1, charged);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NotActive.selector, from));
        this.claim(1, payouts, 0);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NotActive.selector, from));
        this.claimShort(1, new uint256[](0), payouts, 0);
        vm.warp(from);
        _collect(1, charged);
        _claim(1, payouts, 0);
    }

    function test_UnknownBatchesAreRefused() public {
        bytes32 series = _series();
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.UnknownBatch.selector, series, 1));
        this.collect(1, charged);
        _settle(charged, payouts);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.UnknownBatch.selector, series, 0));
        usage.batchOf(series, 0);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.UnknownBatch.selector, series, 2));
        usage.batchOf(series, 2);
    }

    function test_BatchesComeInOrderAndGrow() public {
        vm.startPrank(GATEWAY);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.WrongBatch.selector, 1, 2));
        usage.settleBatch(BOOK, 2, "c", "p", 1);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NothingCharged.selector, 0, 0));
        usage.settleBatch(BOOK, 1, "c", "p", 0);
        usage.settleBatch(BOOK, 1, "c", "p", 10);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.WrongBatch.selector, 2, 1));
        usage.settleBatch(BOOK, 1, "c", "p", 11);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.NothingCharged.selector, 10, 10));
        usage.settleBatch(BOOK, 2, "c", "p", 10);
        usage.settleBatch(BOOK, 2, "c", "p", 11);
        usage.settleBatch("another book", 1, "c", "p", 5);
        vm.stopPrank();
        vm.assertEq(usage.booksOf(_series()).last, 2);
        vm.assertEq(usage.batchOf(_series(), 1).total, 10);
    }

    function test_StrangersSettleNothing() public {
        vm.prank(STRANGER);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.StakeTooLow.selector, MIN_STAKE, 0));
        usage.settleBatch(BOOK, 1, "c", "p", 1);
    }

    function test_StakeThatWasAskedForLetsNobodySettle() public {
        vm.prank(GATEWAY);
        usage.requestUnstake(1);
        vm.prank(GATEWAY);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.StakeTooLow.selector, MIN_STAKE, MIN_STAKE - 1));
        usage.settleBatch(BOOK, 1, "c", "p", 1);
        vm.prank(GATEWAY);
        usage.requestUnstake(0);
        _settleRoots(1, "c", "p", 1);
    }

    // Caps

    function test_CapBindsEveryField() public {
        _settle(charged, payouts);
        _activate();
        Charge memory cap = _cap(users[0], 50 ether);
        _refused(cap, _signCap(1, STRANGER, BOOK, cap)); // of another gateway
        _refused(cap, _signCap(1, GATEWAY, "another book", cap));
        Charge memory other = _cap(users[1], 50 ether);
        _refused(cap, _signCap(1, GATEWAY, BOOK, other)); // of another account
        _refused(cap, _signCap(2, GATEWAY, BOOK, cap)); // by another account
        other = _cap(users[0], 50 ether);
        other.cap = CAP + 1;
        _refused(cap, _signCap(1, GATEWAY, BOOK, other));
        other = _cap(users[0], 50 ether);
        other.expiry = never - 1;
        _refused(cap, _signCap(1, GATEWAY, BOOK, other));
        UsageSettlement another = new UsageSettlement(token, _settings());
        _refused(cap, _signature(1, another.capDigest(GATEWAY, BOOK, cap))); // of another contract
        vm.assertEq(_collectOne(1, charged, 0, cap, _signCap(1, GATEWAY, BOOK, cap)), 50 ether);
    }

    function _refused(Charge memory cap, bytes memory signature) private {
        bytes32 digest = usage.capDigest(GATEWAY, BOOK, cap);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.SignedByAnother.selector, cap.account, digest));
        this.collectOne(1, charged, 0, cap, signature);
    }

    /// @dev A cap of one price book pays nothing under another, though gateway and charge are the same.
    function test_CapOfAnotherPriceBookIsRefused() public {
        bytes32 dearer = "dearer";
        bytes32 series = usage.seriesOf(GATEWAY, dearer);
        bytes32 leaf = keccak256(
            bytes.concat(keccak256(abi.encode(block.chainid, address(usage), series, users[0], uint256(1 ether))))
        );
        vm.prank(GATEWAY);
        usage.settleBatch(dearer, 1, leaf, "p", 1 ether);
        _activate();
        Charge[] memory one = new Charge[](1);
        one[0] = _cap(users[0], 1 ether);
        bytes memory signature = _signCap(1, GATEWAY, BOOK, one[0]);
        vm.expectRevert(
            abi.encodeWithSelector(
                GatewayStakes.SignedByAnother.selector, users[0], usage.capDigest(GATEWAY, dearer, one[0])
            )
        );
        usage.collect(GATEWAY, dearer, 1, one, signature, new bytes32[](0), new bool[](0));
        usage.collect(GATEWAY, dearer, 1, one, _signCap(1, GATEWAY, dearer, one[0]), new bytes32[](0), new bool[](0));
    }

    function test_ChargeAboveItsCapIsRefused() public {
        _settle(charged, payouts);
        _activate();
        Charge memory cap = _cap(users[0], 50 ether);
        cap.cap = 50 ether - 1;
        bytes memory signature = _signCap(1, GATEWAY, BOOK, cap);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AboveCap.selector, users[0], 50 ether - 1, 50 ether));
        this.collectOne(1, charged, 0, cap, signature);
        cap.cap = 50 ether;
        vm.assertEq(_collectOne(1, charged, 0, cap, _signCap(1, GATEWAY, BOOK, cap)), 50 ether);
    }

    /// @dev What counts is when the batch was settled, not when it is collected.
    function test_ExpiredCapPaysForNoLaterBatch() public {
        Charge memory cap = _cap(users[0], 50 ether);
        cap.expiry = uint64(block.timestamp);
        bytes memory signature = _signCap(1, GATEWAY, BOOK, cap);
        _settle(charged, payouts);
        vm.warp(block.timestamp + 1);
        uint256[] memory more = _amounts(60 ether, 30 ether, 20 ether);
        _settle(more, _amounts(70 ether, 25 ether, 15 ether));
        _activate();
        vm.assertEq(_collectOne(1, charged, 0, cap, signature), 50 ether);
        cap.cumulative = 60 ether;
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.CapExpired.selector, users[0], cap.expiry));
        this.collectOne(2, more, 0, cap, signature);
    }

    /// @dev The recovery of a wrong signature gives the zero account: it is nobody's.
    function test_ZeroAccountSignsNothing() public {
        usage.deposit(GATEWAY, address(0), 1 ether);
        _settleRoots(1, _leaf(address(0), 1 ether), "p", 1 ether);
        _activate();
        Charge[] memory one = new Charge[](1);
        one[0] = _cap(address(0), 1 ether);
        vm.expectRevert(GatewayStakes.ZeroAccount.selector);
        usage.collect(GATEWAY, BOOK, 1, one, new bytes(64), new bytes32[](0), new bool[](0));
    }

    function test_SignaturesAreCounted() public {
        _settle(charged, payouts);
        _activate();
        Charge memory cap = _cap(users[0], 50 ether);
        bytes memory signature = _signCap(1, GATEWAY, BOOK, cap);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.WrongSignatureLength.selector, 64, 65));
        this.collectOne(1, charged, 0, cap, bytes.concat(signature, hex"00"));
    }

    function test_ChargesMustBeInTheBatch() public {
        _settle(charged, payouts);
        _activate();
        bytes32 series = _series();
        bytes memory refused = abi.encodeWithSelector(UsageSettlement.NotInBatch.selector, series, 1);
        uint256[] memory other = _amounts(51 ether, 30 ether, 20 ether);
        vm.expectRevert(refused);
        this.collect(1, other);
        _collect(1, charged);
        vm.expectRevert(refused);
        this.claim(1, _amounts(61 ether, 25 ether, 15 ether), 0);
        vm.expectRevert(refused);
        this.claim(1, charged, 0); // no payout, though a leaf of this batch
    }

    /// @dev A gateway that hides charges from its total gets nothing out of them.
    function test_ChargesBeyondTheTotalAreRefused() public {
        _settleRoots(1, _tree(users, charged)[0], _tree(payees, payouts)[0], 99 ether);
        _activate();
        _settleRoots(2, "more", "more", 500 ether); // a later batch, which may be voided, makes no room
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.ChargesExceedTotal.selector, 99 ether, 100 ether));
        this.collect(1, charged);
    }

    /// @dev Whatever a root promises, nobody is paid more than the series collected.
    function test_ClaimsStayWithinThePot() public {
        bytes32 root = _leaf(payees[0], 150 ether);
        _settleRoots(1, _tree(users, charged)[0], root, 100 ether);
        _activate();
        _collect(1, charged);
        UsageSettlement.Payout memory payout;
        payout.cumulative = 150 ether;
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.ClaimExceedsPot.selector, 100 ether, 150 ether));
        usage.claim(GATEWAY, BOOK, 1, payees[0], payout);
    }

    /// @dev What one gateway collects never comes from a deposit for another.
    function test_DepositsAreForOneGateway() public {
        usage.deposit(STRANGER, users[0], 40 ether);
        charged[0] = 140 ether;
        _settle(charged, _amounts(190 ether, 0, 0));
        _activate();
        vm.assertEq(_collect(1, charged), 150 ether);
        vm.assertEq(usage.depositOf(STRANGER, users[0]).amount, 40 ether);
    }

    // Deposits

    function test_WithdrawalTakesItsTime() public {
        vm.startPrank(users[0]);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, 0));
        usage.withdraw(GATEWAY);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.BalanceTooLow.selector, 100 ether, 100 ether + 1));
        usage.requestWithdrawal(GATEWAY, 100 ether + 1);
        usage.requestWithdrawal(GATEWAY, 60 ether);
        uint256 ready = block.timestamp + WITHDRAWAL;
        vm.warp(ready - 1);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, ready));
        usage.withdraw(GATEWAY);
        vm.warp(ready);
        vm.assertEq(usage.withdraw(GATEWAY), 60 ether);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, 0));
        usage.withdraw(GATEWAY); // once
        usage.requestWithdrawal(GATEWAY, 40 ether);
        usage.requestWithdrawal(GATEWAY, 0);
        vm.warp(ready + WITHDRAWAL);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, 0));
        usage.withdraw(GATEWAY);
        vm.stopPrank();
        vm.assertEq(token.balanceOf(users[0]), 60 ether);
    }

    /// @dev A new request starts the time again: no request waits ready for later use of more.
    function test_LargerRequestWaitsAnew() public {
        vm.startPrank(users[0]);
        usage.requestWithdrawal(GATEWAY, 1);
        vm.warp(block.timestamp + WITHDRAWAL);
        usage.requestWithdrawal(GATEWAY, 100 ether);
        vm.expectRevert(abi.encodeWithSelector(GatewayStakes.NotReady.selector, block.timestamp + WITHDRAWAL));
        usage.withdraw(GATEWAY);
        vm.stopPrank();
    }

    /// @dev Whoever asks for its deposit right before a batch is settled is out only after the batch was collected.
    function test_WithdrawalComesTooLateToDodgeABatch() public {
        vm.prank(users[0]);
        usage.requestWithdrawal(GATEWAY, 100 ether);
        _settle(charged, payouts);
        _activate();
        vm.prank(users[0]);
        vm.expectRevert();
        usage.withdraw(GATEWAY);
        vm.assertEq(_collect(1, charged), 100 ether); // what was asked for is collected, too
        vm.warp(block.timestamp + WITHDRAWAL);
        vm.prank(users[0]);
        vm.assertEq(usage.withdraw(GATEWAY), 50 ether); // what is left of it
        _checkHoldings();
    }

    function test_DepositOfNothingIsRefused() public {
        vm.expectRevert(GatewayStakes.ZeroAmount.selector);
        usage.deposit(GATEWAY, users[0], 0);
        vm.expectRevert(GatewayStakes.ZeroAmount.selector);
        usage.stake(0);
    }

    // The guardian

    function test_GuardianVoidsPendingBatchesOnly() public {
        _settle(charged, payouts);
        _activate();
        _settle(_amounts(60 ether, 30 ether, 20 ether), _amounts(70 ether, 25 ether, 15 ether));
        _settle(_amounts(61 ether, 30 ether, 20 ether), _amounts(71 ether, 25 ether, 15 ether));
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.Unauthorized.selector, address(this)));
        usage.void(GATEWAY, BOOK, 2);
        bytes32 series = _series();
        vm.startPrank(GUARDIAN);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AlreadyActive.selector, 1));
        usage.void(GATEWAY, BOOK, 1);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.UnknownBatch.selector, series, 4));
        usage.void(GATEWAY, BOOK, 4);
        usage.void(GATEWAY, BOOK, 2);
        vm.stopPrank();
        vm.assertEq(usage.booksOf(series).last, 1);
        uint256[] memory more = _amounts(55 ether, 30 ether, 20 ether);
        uint256[] memory later = _amounts(65 ether, 25 ether, 15 ether);
        vm.assertEq(_settle(more, later), 2); // less than was voided
        _activate();
        vm.assertEq(_collect(2, more), 105 ether);
        vm.assertEq(_claim(2, later, 0), 65 ether);
    }

    function test_BatchMayBeVoidedUntilItIsActive() public {
        _settle(charged, payouts);
        vm.warp(block.timestamp + ACTIVATION - 1);
        vm.prank(GUARDIAN);
        usage.void(GATEWAY, BOOK, 1);
        vm.assertEq(usage.booksOf(_series()).last, 0);
        _settle(charged, payouts);
        _activate();
        vm.prank(GUARDIAN);
        vm.expectRevert(abi.encodeWithSelector(UsageSettlement.AlreadyActive.selector, 1));
        usage.void(GATEWAY, BOOK, 1);
    }

    // Everything

    /// @dev Whatever deposits, charges and order: no unit is made or lost, and floors lose less than a wei an account.
    function testFuzz_EveryUnitIsConserved(
        uint256[3] memory deposits,
        uint256[3] memory asked,
        uint256 first,
        uint256 at
    ) public {
        uint256[] memory amounts = new uint256[](3);
        for (uint256 i; i < 3; ++i) {
            usage.deposit(GATEWAY, users[i], uint96(bound(deposits[i], 1, 500 ether)));
            amounts[i] = bound(asked[i], 1, 900 ether);
        }
        uint256 total = _sum(amounts);
        first = bound(first, 0, total);
        uint256 second = bound(at, 0, total - first);
        uint256[] memory shares = _amounts(first, second, total - first - second);
        _settle(amounts, shares);
        _activate();
        uint256 collected = _collect(1, amounts);
        for (uint256 i; i < 3; ++i) {
            if (shares[i] == 0 || shares[i] * collected / total == 0) continue;
            uint256 paid = collected == total ? _claim(1, shares, i) : _claimShort(1, new uint256[](0), shares, i);
            vm.assertEq(paid, shares[i] * collected / total);
        }
        vm.assertLe(collected - usage.booksOf(_series()).paid, 2, "dust");
        _checkHoldings();
    }

    function test_SettingsWithoutSenseAreRefused() public {
        UsageSettings memory settings = _settings();
        settings.withdrawalDelay = ACTIVATION + RESPONSE;
        _refusedSettings(settings);
        settings.withdrawalDelay = 365 days + 1;
        _refusedSettings(settings);
        settings = _settings();
        settings.sink = address(0);
        _refusedSettings(settings);
        settings = _settings();
        settings.minStake = 0;
        _refusedSettings(settings);
        settings.minStake = 1;
        new UsageSettlement(token, settings);
    }

    function _refusedSettings(UsageSettings memory settings) private {
        vm.expectRevert(GatewayStakes.InvalidSettings.selector);
        new UsageSettlement(token, settings);
    }
}
