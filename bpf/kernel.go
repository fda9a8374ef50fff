// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// KfreeSkbArguments says how many arguments the tracepoint kfree_skb has, after
// the type of its BTF prototype and not after the kernel's version: 2 up to 5.16,
// 3 up to 6.10 and in stable 5.15.y, 4 since.
func KfreeSkbArguments(kernel *btf.Spec) (int, error) {
	var prototype *btf.Typedef
	if err := kernel.TypeByName("btf_trace_kfree_skb", &prototype); err != nil {
		return 0, fmt.Errorf("find btf_trace_kfree_skb in the kernel's BTF: %w", err)
	}
	pointer, ok := btf.UnderlyingType(prototype).(*btf.Pointer)
	if !ok {
		return 0, fmt.Errorf("read btf_trace_kfree_skb: %T where a pointer to a function should be", prototype.Type)
	}
	function, ok := pointer.Target.(*btf.FuncProto)
	if !ok {
		return 0, fmt.Errorf("read btf_trace_kfree_skb: it points to %T where a function should be", pointer.Target)
	}
	// The first parameter is the tracepoint's own data.
	n := len(function.Params) - 1
	if n < 2 {
		return 0, fmt.Errorf("read btf_trace_kfree_skb: %d arguments, at least 2 are needed", n)
	}
	// Arguments are only ever added at the end, and reading fewer is allowed.
	return min(n, 4), nil
}

// DropReasons are the names of enum skb_drop_reason without their prefix, by
// number; empty before 5.17.
func DropReasons(kernel *btf.Spec) (map[uint32]string, error) {
	var enum *btf.Enum
	err := kernel.TypeByName("skb_drop_reason", &enum)
	if errors.Is(err, btf.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find enum skb_drop_reason in the kernel's BTF: %w", err)
	}
	reasons := make(map[uint32]string, len(enum.Values))
	for _, v := range enum.Values {
		name := strings.TrimPrefix(strings.TrimPrefix(v.Name, "SKB_DROP_REASON_"), "SKB_")
		// MAX and SUBSYS_MASK close the list; they are no reasons.
		if name == "MAX" || strings.HasPrefix(name, "SUBSYS_") {
			continue
		}
		reasons[uint32(v.Value)] = name
	}
	return reasons, nil
}

// reasonMask says by which reasons a drop for size can come. The places that
// check sizes give NOT_SPECIFIED up to 6.18 except for ip_forward, ip6_forward,
// Open vSwitch and IP-TFS, which say PKT_TOO_BIG; a name with TOO_BIG or MTU in
// it is admitted so that a kernel which learns to name them is not missed. High
// numbers (16 bits of subsystem, since 6.4) are never any of them.
func reasonMask(reasons map[uint32]string) (mask [4]uint64, tooBig uint32) {
	if len(reasons) == 0 {
		return [4]uint64{^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}, 0
	}
	for n, name := range reasons {
		if n > 255 {
			continue
		}
		if name == "PKT_TOO_BIG" {
			tooBig = n
		}
		if name == "NOT_SPECIFIED" || strings.Contains(name, "TOO_BIG") || strings.Contains(name, "MTU") {
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return mask, tooBig
}
