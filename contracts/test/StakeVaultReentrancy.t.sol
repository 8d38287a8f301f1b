// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {PlainToken, StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

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
        bytes[8] memory calls = [
            abi.encodeCall(StakeVault.withdrawStake, (0)),
            abi.encodeCall(StakeVault.claimOperatorRewards, ()),
            abi.encodeCall(StakeVault.stake, (1)),
            abi.encodeCall(StakeVault.delegate, (OPERATOR, 1 ether)),
            abi.encodeCall(StakeVault.withdraw, (OPERATOR, 0)),
            abi.encodeCall(StakeVault.slash, (TASK, OPERATOR, 1)),
            abi.encodeCall(StakeVault.payOut, (OPERATOR, 1)),
            abi.encodeCall(StakeVault.payOutRest, (OPERATOR))
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
        _stake(1 ether);
        _lock(TASK, 1 ether);
        _slash(TASK, 1 ether);
        vault.claimOperatorRewards();
        vm.assertEq(refusals, 16);
    }

    /// @dev Claims are not guarded: whoever comes back finds its rewards paid.
    function test_ClaimPaysOnceToWhoeverComesBack() public {
        vault.delegate(OPERATOR, 2 ether);
        _skip(2);
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
