// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {PlainToken, StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Each test is named after a bug that a staking contract elsewhere had.
contract StakeVaultAttacksTest is StakeVaultFixture {
    /// @notice First depositor mints dust, donates, and the next one's shares round to zero (ERC-4626 vaults).
    function testFuzz_InflationAttack(uint96 donation, uint96 victim) public {
        uint256 gift = bound(donation, 0, 1e5 ether);
        uint256 amount = bound(victim, MINIMUM, 1e5 ether);
        _delegate(BOB, MINIMUM);
        vm.prank(BOB);
        token.transfer(address(vault), gift);
        vm.assertEq(_delegate(ALICE, amount), amount);
        vm.assertEq(_worth(ALICE), amount);
    }

    /// @notice Tokens sent to the vault move neither prices nor rewards.
    function test_Donation() public {
        _delegate(ALICE, 1 ether);
        _nextEpoch();
        token.transfer(address(vault), 100 ether);
        vm.assertEq(_worth(ALICE), 1 ether);
        vm.assertEq(_pending(ALICE), 0);
        vm.assertEq(vault.freeStake(OPERATOR), 1 ether);
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(ALICE), 1 ether);
    }

    /// @notice Livepeer: one wei bonded on behalf of a delegator before the reward call cost it its rewards.
    function test_LivepeerRewardsGriefing() public {
        _delegate(ALICE, 100 ether);
        _skip(3);
        _distribute(OPERATOR, 1 ether);
        _delegate(BOB, MINIMUM);
        _undelegate(BOB, MINIMUM);
        vm.assertEq(_claimFor(BOB), 0);
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(ALICE), 2 ether);
        _earned(_claim(ALICE), 2 ether);
    }

    /// @notice FLock: somebody who joins lowers what others see as claimable. Here nobody does.
    function testFuzz_FlockJoiningDilutesNoClaim(uint96 amount, bool leaves) public {
        _stake(1 ether);
        _delegate(ALICE, 1 ether);
        _nextEpoch();
        _distribute(OPERATOR, 1 ether);
        uint256 pending = _pending(ALICE);
        uint256 shares = _delegate(BOB, bound(amount, MINIMUM, 1e6 ether));
        if (leaves) _undelegate(BOB, shares);
        vm.assertEq(_pending(ALICE), pending);
        _distribute(OPERATOR, 1 ether);
        vm.assertLe(2 * pending, _pending(ALICE), "as much as before");
    }

    /// @notice The Graph M-01: an absurd thawing period overflowed, so that stake thawed at once.
    function testFuzz_GraphAbsurdThawingPeriod(uint32 unbonding, uint32 delay, uint32 epoch) public {
        StakeVault.Settings memory settings = _settings();
        settings.unbondingEpochs = uint32(bound(unbonding, 10_000, type(uint32).max));
        settings.commissionDelay = delay;
        vm.expectRevert(StakeVault.InvalidSettings.selector);
        new StakeVault(token, address(this), address(this), settings);

        // nor does a request's epoch wrap round: there is none at the end of time
        epoch = uint32(bound(epoch, vault.currentEpoch() + 1, type(uint32).max));
        _delegate(ALICE, 1 ether);
        _undelegate(ALICE, 1 ether);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.NothingToWithdraw.selector, ALICE, epoch));
        _withdraw(ALICE, epoch);
    }

    /// @notice The Graph M-02: a provider that withdrew first made the slash revert.
    function test_GraphSlashFrontRunByWithdrawal() public {
        _stake(10 ether);
        _delegate(ALICE, 10 ether);
        vault.lock(TASK, OPERATOR, 15 ether);
        uint32 epoch = _unstake(10 ether);
        _undelegate(ALICE, 10 ether);
        _skip(UNBONDING + 1);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 15 ether, 0));
        vm.prank(OPERATOR);
        vault.withdrawStake(epoch);
        vm.expectRevert(abi.encodeWithSelector(StakeVault.StakeLocked.selector, 15 ether, 10 ether));
        _withdraw(ALICE, epoch);
        vm.assertEq(vault.slash(TASK, OPERATOR, 100 ether), 15 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.withdrawStake(epoch), 0);
        vm.assertEq(_withdraw(ALICE, epoch), 5 ether);
    }

    /// @notice The Graph H-02: once the operator had nothing left, its delegators could not be slashed.
    function test_GraphDelegatorsUnslashableWhenOperatorIsEmpty() public {
        _stake(10 ether);
        _delegate(ALICE, 90 ether);
        vault.lock(TASK, OPERATOR, 50 ether);
        vault.lock(OTHER_TASK, OPERATOR, 50 ether);
        vm.assertEq(vault.slash(TASK, OPERATOR, 10 ether), 10 ether);
        vm.assertEq(vault.pool(OPERATOR).own, 0);
        vm.assertEq(vault.slash(TASK, OPERATOR, 15 ether), 15 ether);
        vm.assertEq(vault.slash(OTHER_TASK, OPERATOR, 60 ether), 50 ether);
        vm.assertEq(_worth(ALICE), 25 ether);
    }

    /// @notice The Graph L-03: slashing nearly all and depositing again made shares cheaper by 1e18 each time.
    function test_GraphSlashAndRedepositInflatesShares() public {
        for (uint256 i; i < 40; ++i) {
            _delegate(ALICE, 1000 ether);
            uint256 stake = vault.freeStake(OPERATOR);
            vault.lock(TASK, OPERATOR, stake);
            if (i % 2 == 0) _undelegate(ALICE, _shares(ALICE) / 2);
            vault.slash(TASK, OPERATOR, stake - 1 - i * 1e12);
            vault.unlock(TASK, OPERATOR);
            vm.assertLe(_shares(ALICE), 2000 ether << 12, "shares stay bounded");
        }
        vault.lock(TASK, OPERATOR, vault.freeStake(OPERATOR));
        vault.slash(TASK, OPERATOR, type(uint256).max);
        uint256 worth = _worth(ALICE);
        _delegate(ALICE, 1000 ether);
        vm.assertLe(worth + 1000 ether, _worth(ALICE) + 1, "and no deposit loses more than a wei");
    }

    /// @notice Trust H-4 on The Graph: the last withdrawal failed by one wei.
    function testFuzz_TrustLastWithdrawalByOneWei(uint96[3] memory amounts, uint96 slashed, uint96 late) public {
        _stake(7);
        address[3] memory accounts = [ALICE, BOB, OPERATOR];
        uint256 total;
        for (uint256 i; i < 3; ++i) {
            uint256 amount = bound(amounts[i], MINIMUM, 1e5 ether);
            _delegate(accounts[i], amount);
            total += amount;
        }
        vault.lock(TASK, OPERATOR, total + 7);
        uint32 epoch = _undelegate(ALICE, _shares(ALICE));
        vault.slash(TASK, OPERATOR, bound(slashed, 0, total));
        if (_shares(BOB) != 0) _undelegate(BOB, _shares(BOB));
        vault.slash(TASK, OPERATOR, bound(late, 0, total / 10));
        if (_shares(OPERATOR) != 0) _undelegate(OPERATOR, _shares(OPERATOR));
        vault.unlock(TASK, OPERATOR);
        _skip(UNBONDING + 1);
        for (uint256 i; i < 3; ++i) {
            if (vault.thawingOf(OPERATOR, accounts[i], epoch) != 0) _withdraw(accounts[i], epoch);
        }
        vm.assertEq(vault.pool(OPERATOR).thawing, 0);
        vm.assertEq(vault.pool(OPERATOR).delegated, 0);
    }

    /// @notice EigenLayer: repeated small slashes rounded to nothing. Here each takes its wei.
    function test_EigenLayerSmallSlashesRoundToZero() public {
        _delegate(ALICE, 1000 ether);
        _delegate(BOB, 500 ether);
        vault.lock(TASK, OPERATOR, 1500 ether);
        uint32 epoch = _undelegate(BOB, 500 ether);
        for (uint256 i; i < 300; ++i) {
            vm.assertEq(vault.slash(TASK, OPERATOR, 1), 1);
        }
        StakeVault.PoolInfo memory info = vault.pool(OPERATOR);
        vm.assertEq(info.delegated + info.thawing, 1500 ether - 300);
        vm.assertEq(vault.lockedStake(TASK, OPERATOR), 1500 ether - 300);
        vm.assertLe(_worth(ALICE) + vault.thawingOf(OPERATOR, BOB, epoch), 1500 ether - 300, "felt by the delegators");
    }

    /// @notice EigenLayer: a deposit after a full slash divided by zero. A small rest after a slash is as harmless.
    function testFuzz_EigenLayerDepositAfterFullSlash(uint96 rest, uint96 amount) public {
        _delegate(ALICE, 10 ether);
        vault.lock(TASK, OPERATOR, 10 ether);
        rest = uint96(bound(rest, 0, 1e9));
        vault.slash(TASK, OPERATOR, 10 ether - rest);
        uint256 added = bound(amount, MINIMUM, 1e5 ether);
        vm.assertEq(_delegate(BOB, added), added);
        vm.assertEq(_worth(BOB), added);
        vm.assertEq(vault.pool(OPERATOR).own, rest); // what an exhausted generation leaves stays slashable
        vm.assertEq(vault.slash(TASK, OPERATOR, 10 ether), rest);
    }

    /// @notice Synthetix: what came in while nobody was staked was lost.
    function test_SynthetixRewardsWithoutStakers() public {
        _distribute(OPERATOR, 5 ether);
        vm.prank(OPERATOR);
        vm.assertEq(vault.claimOperatorRewards(), 5 ether);
    }

    /// @notice An operator that adds stake just before a payment does not take its delegators' part of it.
    function test_OperatorCrowdsOutItsDelegators() public {
        _delegate(ALICE, 100 ether);
        _nextEpoch();
        _stake(1e5 ether);
        _distribute(OPERATOR, 1 ether);
        _earned(_pending(ALICE), 1 ether);
    }

    /// @notice Whoever unbonds before a slash loses what it would have lost by staying, to a wei.
    function testFuzz_OrderOfSlashAndUnbonding(uint96[4] memory amounts, uint96 own, uint96 slashed) public {
        address other = address(0x0E);
        _fund(other, 1e6 ether);
        _accept(other);
        own = uint96(bound(own, 1, 1e5 ether));
        uint256 total = own;
        for (uint256 i; i < 2; ++i) {
            uint256 amount = bound(amounts[i], MINIMUM, 1e5 ether);
            total += amount;
            for (uint256 j; j < 2; ++j) {
                vm.prank(i == 0 ? ALICE : BOB);
                vault.delegate(j == 0 ? OPERATOR : other, amount);
            }
        }
        _stake(own);
        vm.prank(other);
        vault.stake(own);
        vault.lock(TASK, OPERATOR, total);
        vault.lock(TASK, other, total);
        uint256 amount = bound(slashed, 0, total);
        uint32 epoch = _undelegate(ALICE, _shares(ALICE));
        vault.slash(TASK, OPERATOR, amount);
        vault.slash(TASK, other, amount);
        uint256 held = vault.delegation(other, ALICE).shares;
        if (held == 0) return _near(vault.thawingOf(OPERATOR, ALICE, epoch), 0, total >> 11);
        vm.prank(ALICE);
        vault.undelegate(other, held);
        _near(vault.thawingOf(OPERATOR, ALICE, epoch), vault.thawingOf(other, ALICE, epoch), 1);
        _near(_worth(BOB), vault.delegation(other, BOB).assets, 1);
    }

    function _near(uint256 left, uint256 right, uint256 tolerance) private pure {
        vm.assertLe(left, right + tolerance, "more");
        vm.assertLe(right, left + tolerance, "less");
    }

    function _claimFor(address account) private returns (uint256) {
        vm.prank(account);
        return vault.claim(OPERATOR);
    }
}

/// @notice A token that calls its receiver back, which the vault's token must not do.
contract VaultCallbackToken is PlainToken {
    StakeVaultReentrancyTest private immutable _listener = StakeVaultReentrancyTest(msg.sender);

    function _update(address from, address to, uint256 amount) internal override {
        super._update(from, to, amount);
        if (from != address(0) && to == address(_listener)) _listener.received();
    }
}

/// @notice The vault refuses a receiver that comes back while it is being paid.
contract StakeVaultReentrancyTest is StakeVaultFixture {
    uint256 private refusals;
    bool private claims;
    uint256 private again;

    function _newToken() internal override returns (PlainToken) {
        return new VaultCallbackToken();
    }

    function received() external {
        if (claims) {
            claims = false; // the second payment, of nothing, does not come back
            again = vault.claim(OPERATOR) + 1;
            return;
        }
        if (again != 0) return;
        bytes[7] memory calls = [
            abi.encodeCall(StakeVault.withdrawStake, (0)),
            abi.encodeCall(StakeVault.claimOperatorRewards, ()),
            abi.encodeCall(StakeVault.stake, (1)),
            abi.encodeCall(StakeVault.delegate, (OPERATOR, 1 ether)),
            abi.encodeCall(StakeVault.withdraw, (OPERATOR, 0)),
            abi.encodeCall(StakeVault.slash, (TASK, OPERATOR, 1)),
            abi.encodeCall(StakeVault.payOut, (OPERATOR, 1))
        ];
        for (uint256 i; i < calls.length; ++i) {
            (bool done, bytes memory reason) = address(vault).call(calls[i]);
            vm.assertTrue(!done, "reentered");
            bytes4 selector = ReentrancyGuardTransient.ReentrancyGuardReentrantCall.selector;
            vm.assertEq(bytes32(bytes4(reason)), bytes32(selector));
            ++refusals;
        }
    }

    function test_ReceiverCannotReenter() public {
        vault.delegate(OPERATOR, 2 ether);
        _nextEpoch();
        vault.lock(TASK, OPERATOR, 1 ether);
        _slash(TASK, 1 ether);
        vault.claimOperatorRewards();
        vm.assertEq(refusals, 14);
    }

    /// @dev Claims are not guarded: whoever comes back finds its rewards paid.
    function test_ClaimPaysOnceToWhoeverComesBack() public {
        vault.delegate(OPERATOR, 2 ether);
        _nextEpoch();
        again = 1;
        _distribute(OPERATOR, 1 ether);
        uint256 before = token.balanceOf(address(this));
        claims = true;
        uint256 paid = vault.claim(OPERATOR);
        _earned(paid, 1 ether);
        vm.assertEq(token.balanceOf(address(this)), before + paid);
        vm.assertEq(again, 1);
        vm.assertEq(vault.pendingRewards(OPERATOR, address(this)), 0);
    }
}
