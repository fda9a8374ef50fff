// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package oversize

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/plumb-dev/plumb/bpf"
)

// confirm makes the kernel drop a packet of ours and looks for it in both hooks.
// That a program is attached proves nothing: a hook may be patched out or its link
// lost without an error.
func (p *Probe) confirm() {
	if p.kernel == nil {
		return
	}
	adaptErr := p.kernel.AttachAdapt()
	seen, err := p.selftest(adaptErr == nil)
	if adaptErr == nil {
		adaptErr = p.kernel.DetachAdapt()
	}
	dropDetail, adaptDetail := "", ""
	if err == nil && !seen.drop {
		err = errors.New("confirm tp_btf/kfree_skb: attached, but a packet that the kernel dropped did not come through it")
	}
	if err != nil {
		dropDetail = err.Error()
	}
	if adaptErr == nil && !seen.xmit {
		adaptErr = errors.New("confirm tp_btf/net_dev_start_xmit: attached, but a packet that was sent did not come through it")
	}
	if adaptErr != nil {
		adaptDetail = adaptErr.Error()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropDetail, p.adaptDetail = dropDetail, adaptDetail
	p.adaptConfirmed = seen.xmit
	if seen.drop && p.watchedSince == 0 {
		p.watchedSince = p.cfg.Clock.Boottime()
	}
}

type seen struct{ drop, xmit bool }

// Three packets, each awaited for up to 100 ms: the drop happens within the
// sender's own system call, only a saturated softirq delays it.
const (
	selftestTries = 3
	selftestWait  = 100 * time.Millisecond
)

func (p *Probe) selftest(withXmit bool) (seen, error) {
	var (
		out    seen
		random [8]byte
	)
	if _, err := rand.Read(random[:]); err != nil {
		return out, fmt.Errorf("confirm tp_btf/kfree_skb: make a mark: %w", err)
	}
	random[0] |= 1 // Zero means that no test runs.
	if err := p.kernel.SetSelftest(binary.NativeEndian.Uint64(random[:])); err != nil {
		return out, err
	}
	before, err := p.kernel.Counters()
	if err != nil {
		return out, errors.Join(err, p.kernel.SetSelftest(0))
	}
	for range selftestTries {
		if err = sendUnwanted(random[:]); err != nil {
			continue
		}
		for deadline := time.Now().Add(selftestWait); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			var now map[bpf.Counter]uint64
			if now, err = p.kernel.Counters(); err != nil {
				break
			}
			out.drop = now[bpf.CountSelftestDrop] > before[bpf.CountSelftestDrop]
			out.xmit = now[bpf.CountSelftestXmit] > before[bpf.CountSelftestXmit]
			if out.drop && (out.xmit || !withXmit) {
				return out, p.kernel.SetSelftest(0)
			}
		}
	}
	return out, errors.Join(err, p.kernel.SetSelftest(0))
}

// sendUnwanted sends a UDP datagram over loopback to a port that refuses it. The
// port is held by a socket of ours that is connected elsewhere, so that the kernel
// finds no receiver and nobody else's socket can get it.
func sendUnwanted(payload []byte) error {
	var errs []error
	for _, host := range []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback} {
		err := sendUnwantedTo(host, payload)
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("send the test packet over loopback: %w", errors.Join(errs...))
}

func sendUnwantedTo(host net.IP, payload []byte) error {
	// Discard (RFC 863): never the source of our own datagram.
	holder, err := net.DialUDP("udp", &net.UDPAddr{IP: host}, &net.UDPAddr{IP: host, Port: 9})
	if err != nil {
		return err
	}
	defer holder.Close()
	sender, err := net.DialUDP("udp", &net.UDPAddr{IP: host}, holder.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return err
	}
	defer sender.Close()
	// A firewall that refuses the packet here (EPERM) drops it through kfree_skb
	// too; what counts is whether the program saw it.
	_, err = sender.Write(payload)
	if err != nil {
		return fmt.Errorf("send to a closed port: %w", err)
	}
	return nil
}
