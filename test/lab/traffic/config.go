// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Kind is what a flow is made of.
type Kind string

// The kinds.
const (
	TCP  Kind = "tcp"
	HTTP Kind = "http"
	UDP  Kind = "udp"
	DNS  Kind = "dns"
)

func (k Kind) known() bool { return k == TCP || k == HTTP || k == UDP || k == DNS }

const (
	// maxBytes bounds one transfer or answer.
	maxBytes = 1 << 30
	// maxDatagram is what UDP over IPv4 carries: 65535 - 20 - 8 bytes.
	maxDatagram = 65507
	// minEvery keeps a flow from taking a whole processor.
	minEvery = time.Millisecond
)

// A Flow is one application that transfers again and again.
type Flow struct {
	// ID is unique in the whole lab.
	ID   string `json:"id"`
	Kind Kind   `json:"kind"`
	// From and To are node names. They are for the reader of events; To may be "".
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
	// Target is a literal address and port.
	Target netip.AddrPort `json:"target"`
	// Bytes that a TCP transfer sends, or the payload of a UDP request, which is
	// answered by as much.
	Bytes int64 `json:"bytes,omitempty"`
	// ResponseBytes that an HTTP answer has.
	ResponseBytes int64 `json:"responseBytes,omitempty"`
	// Every is the time from the begin of a transfer to the begin of the next, one
	// millisecond at least.
	Every time.Duration `json:"everyNanoseconds"`
	// Small is the name whose A record a DNS flow asks for, Large the one whose TXT
	// record it asks for; both end with a dot.
	Small string `json:"small,omitempty"`
	Large string `json:"large,omitempty"`
}

// SenderConfig is the first line that a Sender reads.
type SenderConfig struct {
	Flows []Flow `json:"flows"`
	// StallAfter is how long a transfer may make no progress before it is a stall;
	// 0 is DefaultStallAfter.
	StallAfter time.Duration `json:"stallAfterNanoseconds,omitempty"`
}

// ReceiverConfig is the first line that a Receiver reads: literal addresses and
// ports to listen on.
type ReceiverConfig struct {
	TCP  []netip.AddrPort `json:"tcp,omitempty"`
	HTTP []netip.AddrPort `json:"http,omitempty"`
	// UDP sends every datagram back.
	UDP []netip.AddrPort `json:"udp,omitempty"`
	// QUIC answers every datagram with a short one, as a peer acknowledges.
	QUIC []netip.AddrPort `json:"quic,omitempty"`
	// Hold accepts TCP connections and reads nothing: what a TeardownStorm fills.
	Hold []netip.AddrPort `json:"hold,omitempty"`
}

// Mode is how the TCP receivers of a Receiver read.
type Mode string

// The modes. Slow reads a trickle into a small buffer, so that the window closes
// though the network is well.
const (
	Normal Mode = "normal"
	Slow   Mode = "slow"
)

// Confounder is something that looks like a fault and is none.
type Confounder string

// The confounders that a Sender can run.
const (
	QUIC     Confounder = "quic-probes"
	Teardown Confounder = "tcp-teardown-storm"
)

// A Command is each further line of standard input. Exactly one field is set.
// Receiver is for a Receiver, the others are for a Sender.
type Command struct {
	Receiver      Mode           `json:"receiver,omitempty"`
	QUICProbes    *QUICProbes    `json:"quicProbes,omitempty"`
	TeardownStorm *TeardownStorm `json:"tcpTeardownStorm,omitempty"`
	// Stop ends a confounder; one that does not run is no error.
	Stop Confounder `json:"stop,omitempty"`
}

// String names the command as it is repeated in an Applied event.
func (c Command) String() string {
	switch {
	case c.Receiver != "":
		return string(c.Receiver)
	case c.QUICProbes != nil:
		return string(QUIC)
	case c.TeardownStorm != nil:
		return string(Teardown)
	}
	return "stop " + string(c.Stop)
}

// strict decodes one line that holds one JSON object and no unknown field.
func strict(line []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more on the line after the JSON object")
	}
	return nil
}

func (f Flow) check() error {
	switch {
	case f.ID == "":
		return errors.New("a flow has no id")
	case !f.Kind.known():
		return fmt.Errorf("flow %s: unknown kind %q; tcp, http, udp and dns are known", f.ID, f.Kind)
	case !f.Target.IsValid() || f.Target.Port() == 0:
		return fmt.Errorf("flow %s: the target %s is no address and port", f.ID, f.Target)
	case f.Every < minEvery:
		return fmt.Errorf("flow %s: every %s is too often; at most every %s", f.ID, f.Every, minEvery)
	case f.Kind == TCP && (f.Bytes < 1 || f.Bytes > maxBytes):
		return fmt.Errorf("flow %s: %d bytes; a transfer has 1 to %d", f.ID, f.Bytes, maxBytes)
	case f.Kind == UDP && (f.Bytes < 1 || f.Bytes > maxDatagram):
		return fmt.Errorf("flow %s: %d bytes; a datagram has 1 to %d", f.ID, f.Bytes, maxDatagram)
	case f.Kind == HTTP && (f.ResponseBytes < 0 || f.ResponseBytes > maxBytes):
		return fmt.Errorf("flow %s: %d response bytes; an answer has 0 to %d", f.ID, f.ResponseBytes, maxBytes)
	}
	if f.Kind != DNS {
		return nil
	}
	for _, name := range []string{f.Small, f.Large} {
		n, err := dnsmessage.NewName(name)
		if err == nil {
			_, err = (&dnsmessage.Message{Questions: []dnsmessage.Question{{Name: n}}}).Pack()
		}
		if err != nil || name == "." {
			return fmt.Errorf("flow %s: %q is no name to ask for; write one that ends with a dot", f.ID, name)
		}
	}
	return nil
}

func (c SenderConfig) check() error {
	ids := map[string]bool{}
	for _, f := range c.Flows {
		if err := f.check(); err != nil {
			return err
		}
		if ids[f.ID] {
			return fmt.Errorf("flow %s is there twice", f.ID)
		}
		ids[f.ID] = true
	}
	if c.StallAfter < 0 {
		return fmt.Errorf("a stall after %s makes no sense", c.StallAfter)
	}
	return nil
}

func (c Command) check() error {
	set := 0
	for _, is := range []bool{c.Receiver != "", c.QUICProbes != nil, c.TeardownStorm != nil, c.Stop != ""} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return fmt.Errorf("a command has %d of receiver, quicProbes, tcpTeardownStorm and stop; give it one", set)
	case c.Receiver != "" && c.Receiver != Normal && c.Receiver != Slow:
		return fmt.Errorf("unknown receiver mode %q; normal and slow are known", c.Receiver)
	case c.Stop != "" && c.Stop != QUIC && c.Stop != Teardown:
		return fmt.Errorf("unknown confounder %q; %s and %s are known", c.Stop, QUIC, Teardown)
	case c.QUICProbes != nil:
		return c.QUICProbes.check()
	case c.TeardownStorm != nil:
		return c.TeardownStorm.check()
	}
	return nil
}
