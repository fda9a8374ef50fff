// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/stretchr/testify/require"
)

// kernelBTF is what the kernel's BTF says of the tracepoint with so many
// arguments. Names and types are those of include/trace/events/skb.h in 5.10 (2),
// 6.1 (3) and 6.12 (4).
func kernelBTF(arguments int) []btf.Type {
	void := &btf.Pointer{Target: (*btf.Void)(nil)}
	skb := &btf.Struct{Name: "sk_buff", Size: 8, Members: []btf.Member{{Name: "len", Type: integer("unsigned int", 4)}}}
	reason := &btf.Enum{Name: "skb_drop_reason", Size: 4}
	params := []btf.FuncParam{{Type: void}, {Type: &btf.Pointer{Target: skb}}, {Type: void}}
	if arguments >= 3 {
		reason.Values = []btf.EnumValue{
			{Name: "SKB_NOT_DROPPED_YET", Value: 0},
			{Name: "SKB_DROP_REASON_NOT_SPECIFIED", Value: 1},
			{Name: "SKB_DROP_REASON_NO_SOCKET", Value: 2},
			{Name: "SKB_DROP_REASON_PKT_TOO_BIG", Value: 64},
			{Name: "SKB_DROP_REASON_MAX", Value: 65},
		}
		if arguments == 4 {
			reason.Values[3].Value = 80
			reason.Values[1].Value, reason.Values[2].Value = 2, 3
		}
		params = append(params, btf.FuncParam{Type: reason})
	}
	if arguments >= 4 {
		sk := &btf.Struct{Name: "sock", Size: 4, Members: []btf.Member{{Name: "sk_protocol", Type: integer("short unsigned int", 2)}}}
		params = append(params, btf.FuncParam{Type: &btf.Pointer{Target: sk}})
	}
	function := &btf.FuncProto{Return: (*btf.Void)(nil), Params: params}
	return []btf.Type{&btf.Typedef{Name: "btf_trace_kfree_skb", Type: &btf.Pointer{Target: function}}}
}

func integer(name string, size uint32) btf.Type { return &btf.Int{Name: name, Size: size} }

// recorded reads testdata/kfree_skb_N.btf. PLUMB_UPDATE=1 writes it anew.
func recorded(t *testing.T, arguments int) *btf.Spec {
	t.Helper()
	path := filepath.Join("testdata", fmt.Sprintf("kfree_skb_%d.btf", arguments))
	if os.Getenv("PLUMB_UPDATE") != "" {
		b, err := btf.NewBuilder(kernelBTF(arguments), nil)
		require.NoError(t, err)
		raw, err := b.Marshal(nil, &btf.MarshalOptions{Order: binary.LittleEndian})
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, raw, 0o644))
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	require.NoError(t, err)
	return spec
}

func TestTheVariantIsChosenByThePrototypeInBTF(t *testing.T) {
	for _, tt := range []struct {
		arguments          int
		notSpecified, tooB uint32
	}{
		{arguments: 2},
		{arguments: 3, notSpecified: 1, tooB: 64},
		{arguments: 4, notSpecified: 2, tooB: 80},
	} {
		t.Run(fmt.Sprintf("%d arguments", tt.arguments), func(t *testing.T) {
			kernel := recorded(t, tt.arguments)
			n, err := KfreeSkbArguments(kernel)
			require.NoError(t, err)
			require.Equal(t, tt.arguments, n)

			spec, err := variant(n)
			require.NoError(t, err)
			var programs []string
			for name := range spec.Programs {
				programs = append(programs, name)
			}
			require.ElementsMatch(t, []string{"adapt", fmt.Sprintf("kfree_skb_%d", n)}, programs)

			reasons, err := DropReasons(kernel)
			require.NoError(t, err)
			mask, tooBig := reasonMask(reasons)
			require.Equal(t, tt.tooB, tooBig)
			if n == 2 {
				require.Empty(t, reasons)
				require.Equal(t, ^uint64(0), mask[0], "without reasons every drop may be for size")
				return
			}
			require.Equal(t, "PKT_TOO_BIG", reasons[tt.tooB])
			var want [4]uint64
			want[tt.notSpecified/64] |= 1 << (tt.notSpecified % 64)
			want[tt.tooB/64] |= 1 << (tt.tooB % 64)
			require.Equal(t, want, mask)
		})
	}
}

func TestAPrototypeThatIsNoneIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		types      []btf.Type
	}{
		{"absent", "find btf_trace_kfree_skb", []btf.Type{integer("int", 4)}},
		{"no pointer", "where a pointer to a function should be", []btf.Type{&btf.Typedef{Name: "btf_trace_kfree_skb", Type: integer("int", 4)}}},
		{"no function", "where a function should be", []btf.Type{&btf.Typedef{Name: "btf_trace_kfree_skb", Type: &btf.Pointer{Target: integer("int", 4)}}}},
		{"too few", "1 arguments", []btf.Type{&btf.Typedef{Name: "btf_trace_kfree_skb", Type: &btf.Pointer{Target: &btf.FuncProto{
			Return: (*btf.Void)(nil), Params: []btf.FuncParam{{Type: integer("int", 4)}, {Type: integer("int", 4)}},
		}}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b, err := btf.NewBuilder(tt.types, nil)
			require.NoError(t, err)
			spec, err := b.Spec()
			require.NoError(t, err)
			_, err = KfreeSkbArguments(spec)
			require.ErrorContains(t, err, tt.want)
		})
	}
}

// The verifier refuses a program that reads an argument which the tracepoint does
// not have. No kernel with two arguments is at hand, so this stands for its
// verdict: the program's reads of its context.
func TestEachVariantReadsOnlyTheArgumentsItHas(t *testing.T) {
	spec, err := loadOversize()
	require.NoError(t, err)
	for n := 2; n <= 4; n++ {
		reads := contextReads(t, spec.Programs[fmt.Sprintf("kfree_skb_%d", n)])
		require.NotEmpty(t, reads)
		for offset := range reads {
			require.Less(t, int(offset), 8*n, "kfree_skb_%d reads beyond its arguments", n)
		}
		require.Contains(t, reads, int16(8*(n-1)), "kfree_skb_%d does not use its last argument", n)
	}
	for offset := range contextReads(t, spec.Programs["adapt"]) {
		require.Less(t, int(offset), 16, "net_dev_start_xmit has two arguments")
	}
}

// contextReads follows the context pointer from R1 through copies up to the first
// call, after which only a saved copy can hold it.
func contextReads(t *testing.T, p *ebpf.ProgramSpec) map[int16]bool {
	t.Helper()
	require.NotNil(t, p)
	reads := map[int16]bool{}
	holds := map[asm.Register]bool{asm.R1: true}
	for i, ins := range p.Instructions {
		if i > 0 && ins.Symbol() != "" {
			break // A subprogram: its R1 is something else.
		}
		op := ins.OpCode
		switch {
		case op.Class().IsLoad() && op.Mode() == asm.MemMode:
			if holds[ins.Src] {
				reads[ins.Offset] = true
			}
			delete(holds, ins.Dst)
		case op.ALUOp() == asm.Mov && op.Source() == asm.RegSource && op.Class() == asm.ALU64Class:
			if holds[ins.Src] {
				holds[ins.Dst] = true
			} else {
				delete(holds, ins.Dst)
			}
		case op.Class().IsALU():
			delete(holds, ins.Dst)
		case op.JumpOp() == asm.Call:
			for r := asm.R0; r <= asm.R5; r++ {
				delete(holds, r)
			}
		}
	}
	return reads
}
