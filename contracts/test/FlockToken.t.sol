// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";
import {FlockToken} from "../src/FlockToken.sol";

contract FlockTokenTest is Base {
    FlockToken internal token;

    function setUp() public {
        token = new FlockToken(0);
        token.setMinter(address(this));
    }

    function test_MinterIsChosenOnceByDeployer() public {
        FlockToken fresh = new FlockToken(5 ether);
        vm.assertEq(fresh.balanceOf(address(this)), 5 ether);
        vm.assertEq(fresh.totalMinted(), 5 ether);
        vm.prank(address(1));
        vm.expectRevert(abi.encodeWithSelector(FlockToken.Unauthorized.selector, address(1)));
        fresh.setMinter(address(1));
        vm.expectRevert(abi.encodeWithSelector(FlockToken.Unauthorized.selector, address(this)));
        fresh.mint(address(this), 1); // the deployer is no minter
        fresh.setMinter(address(2));
        vm.expectRevert(abi.encodeWithSelector(FlockToken.MinterAlreadySet.selector, address(2)));
        fresh.setMinter(address(this));
        vm.prank(address(2));
        fresh.mint(address(3), 1);
        vm.expectRevert(abi.encodeWithSelector(FlockToken.Unauthorized.selector, address(this)));
        fresh.mint(address(this), 1);
    }

    function testFuzz_InitialSupplyCountsAgainstCap(uint256 supply) public {
        supply = bound(supply, 0, token.CAP());
        FlockToken fresh = new FlockToken(supply);
        fresh.setMinter(address(this));
        fresh.burn(supply);
        uint256 available = token.CAP() - supply;
        vm.expectRevert(abi.encodeWithSelector(FlockToken.CapExceeded.selector, available + 1, available));
        fresh.mint(address(this), available + 1);
    }

    function testFuzz_BurnReopensNoRoom(uint256 first, uint256 burnt, uint256 second) public {
        first = bound(first, 0, token.CAP());
        burnt = bound(burnt, 0, first);
        second = bound(second, 0, token.CAP() - first);
        token.mint(address(this), first);
        token.burn(burnt);
        token.mint(address(this), second);
        uint256 available = token.CAP() - first - second;
        vm.assertEq(token.totalSupply(), first - burnt + second);
        vm.expectRevert(abi.encodeWithSelector(FlockToken.CapExceeded.selector, available + 1, available));
        token.mint(address(this), available + 1);
    }

    function testFuzz_MintsUpToCapOnly(uint256 first, uint256 second) public {
        first = bound(first, 0, token.CAP());
        token.mint(address(1), first);
        uint256 available = token.CAP() - first;
        if (second > available) {
            vm.expectRevert(abi.encodeWithSelector(FlockToken.CapExceeded.selector, second, available));
            token.mint(address(2), second);
            second = 0;
        } else {
            token.mint(address(2), second);
        }
        vm.assertEq(token.totalMinted(), first + second);
        vm.assertEq(token.balanceOf(address(2)), second);
    }

    function testFuzz_PermitApproves(uint256 key, uint256 amount) public {
        key = bound(key, 1, type(uint128).max);
        address owner = vm.addr(key);
        bytes32 permit = keccak256(
            abi.encode(
                keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)"),
                owner,
                address(this),
                amount,
                0,
                block.timestamp
            )
        );
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), permit));
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        token.permit(owner, address(this), amount, block.timestamp, v, r, s);
        vm.assertEq(token.allowance(owner, address(this)), amount);
    }
}
