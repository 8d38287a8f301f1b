// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {PlainToken, StakeVaultFixture} from "./StakeVaultFixture.sol";
import {StakeVault} from "../src/StakeVault.sol";

/// @notice A token that does nothing: what a call costs with it is the vault's own part.
contract FreeToken is PlainToken {
    function transfer(address, uint256) public pure override returns (bool) {
        return true;
    }

    function transferFrom(address, address, uint256) public pure override returns (bool) {
        return true;
    }
}

/// @notice Gas of whole transactions, intrinsic and calldata costs included, against ceilings. `-vv` prints the numbers.
/// forge-config: default.isolate = true
contract StakeVaultGasTest is StakeVaultFixture {
    address private constant CONSOLE = 0x000000000000000000636F6e736F6c652e6c6f67;

    function setUp() public virtual override {
        super.setUp();
        _stake(1000 ether);
        _delegate(ALICE, 100 ether);
        _delegate(BOB, 100 ether);
        _lock(TASK, 1100 ether);
        _skip(2);
        _delegate(BOB, 1 ether); // the words of an epoch with newcomers are written once
        _skip(2);
        _distribute(OPERATOR, 10 ether);
        _claim(ALICE);
        _claim(BOB);
        _distribute(OPERATOR, 10 ether);
        _nextEpoch();
        _distribute(OPERATOR, 10 ether);
    }

    function test_Delegate() public {
        _delegate(BOB, 10 ether);
        _measure("delegate again, first of its epoch", 70_000);
        _delegate(ALICE, 10 ether);
        _measure("delegate again", 65_000);
        _skip(2);
        _distribute(OPERATOR, 10 ether);
        _delegate(BOB, 10 ether);
        _delegate(ALICE, 10 ether);
        _measure("delegate again, when the last delegation starts to earn", 70_000);
        _nextEpoch();
        _delegate(BOB, 10 ether);
        _delegate(ALICE, 10 ether);
        _measure("delegate again, in the next epoch", 85_000);
    }

    function test_Claim() public {
        _claim(ALICE);
        _measure("claim", 52_000);
    }

    function test_Distribute() public {
        _distribute(OPERATOR, 10 ether);
        _measure("distribute", 57_000);
        _delegate(ALICE, 10 ether);
        _distribute(OPERATOR, 10 ether);
        _measure("distribute, first after a delegation of the same epoch", 82_000);
        _distribute(OPERATOR, 10 ether);
        _measure("distribute, again in that epoch", 66_000);
    }

    function test_Slash() public {
        vault.slash(TASK, OPERATOR, 1 ether);
        _measure("slash, own stake", 56_000);
        vault.slash(TASK, OPERATOR, 1000 ether);
        _measure("slash, own stake and delegators", 67_000);
    }

    function test_Leave() public {
        vm.prank(ALICE);
        vault.undelegate(OPERATOR, 10 ether);
        _measure("undelegate", 120_000);
        uint32 epoch = vault.currentEpoch();
        _skip(UNBONDING + 1);
        _withdraw(ALICE, epoch);
        _measure("withdraw", 55_000);
    }

    function _name() internal pure virtual returns (string memory) {
        return "";
    }

    function _log(string memory what, uint256 used, uint256 ceiling) private view {
        string memory line = string.concat(what, _name());
        (bool done,) = CONSOLE.staticcall(abi.encodeWithSignature("log(string,uint256)", line, used));
        vm.assertTrue(done, "console");
        vm.assertLt(used, ceiling, line);
    }

    function _measure(string memory what, uint256 ceiling) private view {
        _log(what, vm.lastCallGas().gasTotalUsed, ceiling);
    }
}

/// @notice The same without the cost of moving tokens.
/// forge-config: default.isolate = true
contract StakeVaultOwnGasTest is StakeVaultGasTest {
    function _newToken() internal override returns (PlainToken) {
        return new FreeToken();
    }

    function _name() internal pure override returns (string memory) {
        return ", without the token";
    }
}
