// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice Does the same in two vaults, but for one thing: in the first, stake asks to leave just before a slash, in the
/// second just after it.
contract TwinHandler is StakeVaultFixture {
    uint256 private constant MOST = 1e3 ether;

    StakeVault[2] private _vaults;
    address[3] private _accounts = [ALICE, BOB, OPERATOR];
    uint256 private _steps;

    mapping(address account => uint32[]) private _requests; // epochs, each once; all before `_done` are paid
    mapping(address account => uint256) private _done;
    mapping(address account => uint256)[2] private _paid;

    function setUp() public override {
        for (uint256 i; i < 2; ++i) {
            super.setUp();
            _vaults[i] = vault;
        }
    }

    function stake(uint256 amount) external {
        ++_steps;
        for (uint256 i; i < 2; ++i) {
            vm.prank(OPERATOR);
            _vaults[i].stake(bound(amount, 1, MOST));
        }
    }

    function delegate(uint256 who, uint256 amount) external {
        ++_steps;
        for (uint256 i; i < 2; ++i) {
            vm.prank(_accounts[who % 2]);
            _vaults[i].delegate(OPERATOR, bound(amount, 1 ether, MOST));
        }
    }

    /// @notice Somebody asks for all its stake back, before and after a slash of at most half of what there is.
    /// @dev An operator with an older request does not: all its thawing stake loses alike, its active stake before that. So
    /// the order moves a loss between its own requests, and the older one may be paid before the next slash.
    function leaveAndSlash(uint256 who, uint256 amount) external {
        ++_steps;
        address account = _accounts[who % 3];
        uint32[] storage requests = _requests[account];
        uint32 epoch = vault.currentEpoch();
        bool again = requests.length != 0 && requests[requests.length - 1] == epoch;
        if (account == OPERATOR && _done[account] + (again ? 1 : 0) < requests.length) return;
        amount = bound(amount, 0, _vaults[0].lockable(OPERATOR, CREATOR) / 2);
        _vaults[0].lock(TASK, OPERATOR, CREATOR, amount);
        _vaults[1].lock(TASK, OPERATOR, CREATOR, amount);
        _leave(_vaults[0], account);
        for (uint256 i; i < 2; ++i) {
            _vaults[i].slash(TASK, OPERATOR, amount);
            _vaults[i].payOutRest(SINK);
        }
        _leave(_vaults[1], account);
        if (!again) requests.push(epoch);
    }

    /// @notice Whoever asked first and has waited long enough is paid in both.
    function withdraw(uint256 who) external {
        ++_steps;
        address account = _accounts[who % 3];
        uint256 done = _done[account];
        if (done == _requests[account].length) return;
        uint32 epoch = _requests[account][done];
        if (vault.currentEpoch() <= epoch + UNBONDING) return;
        _done[account] = done + 1;
        for (uint256 i; i < 2; ++i) {
            if (_waiting(_vaults[i], account, epoch) == 0) continue;
            vm.prank(account);
            _paid[
                i
            ][account] += account == OPERATOR ? _vaults[i].withdrawStake(epoch) : _vaults[i].withdraw(OPERATOR, epoch);
        }
    }

    function pass(uint256 epochs) external {
        ++_steps;
        vm.warp(block.timestamp + (epochs % 4) * EPOCH);
    }

    /// @notice Each account has the same in both, paid, thawing or at stake, but for a wei an act.
    function checkOrder() external view {
        for (uint256 k; k < 3; ++k) {
            uint256[2] memory has;
            for (uint256 i; i < 2; ++i) {
                has[i] = _paid[i][_accounts[k]] + _active(_vaults[i], _accounts[k]);
                for (uint256 j = _done[_accounts[k]]; j < _requests[_accounts[k]].length; ++j) {
                    has[i] += _waiting(_vaults[i], _accounts[k], _requests[_accounts[k]][j]);
                }
            }
            vm.assertLe(has[0], has[1] + _steps, "more by asking before the slash");
            vm.assertLe(has[1], has[0] + _steps, "more by asking after it");
        }
    }

    function _active(StakeVault vault_, address account) private view returns (uint256) {
        return account == OPERATOR ? vault_.pool(OPERATOR).own : vault_.delegation(OPERATOR, account).assets;
    }

    function _waiting(StakeVault vault_, address account, uint32 epoch) private view returns (uint256) {
        if (account == OPERATOR) return vault_.ownThawingOf(OPERATOR, epoch);
        return vault_.thawingOf(OPERATOR, account, epoch);
    }

    function _leave(StakeVault vault_, address account) private {
        uint256 part = account == OPERATOR ? vault_.pool(OPERATOR).own : vault_.delegation(OPERATOR, account).shares;
        if (part == 0) return;
        vm.prank(account);
        if (account == OPERATOR) vault_.unstake(part);
        else vault_.undelegate(OPERATOR, part);
    }
}

contract StakeVaultTwinsTest is Base {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    TwinHandler private handler;

    function setUp() public {
        handler = new TwinHandler();
        handler.setUp();
    }

    function targetContracts() public view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(handler);
    }

    function targetSelectors() public view returns (FuzzSelector[] memory targets) {
        bytes4[] memory selectors = new bytes4[](5);
        selectors[0] = TwinHandler.stake.selector;
        selectors[1] = TwinHandler.delegate.selector;
        selectors[2] = TwinHandler.leaveAndSlash.selector;
        selectors[3] = TwinHandler.withdraw.selector;
        selectors[4] = TwinHandler.pass.selector;
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(handler), selectors);
    }

    function invariant_OrderOfSlashAndUnbonding() public view {
        handler.checkOrder();
    }
}
