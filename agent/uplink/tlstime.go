// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package uplink

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	evidencev1 "github.com/plumb-dev/plumb/evidence/v1"
)

// measuredSlack is how far a measured time may be before the last verified one
// and still count as the same: time synchronisation wobbles by milliseconds, a
// certificate's validity is in hours.
const measuredSlack = time.Minute

// A reading is what is known of the time when a certificate is to be verified.
type reading struct {
	// node is the node's wall clock.
	node time.Time
	// build is when this agent was built: the true time is not before it. Zero
	// when it is not known.
	build time.Time
	// verified is the last verified time that was kept; zero when there is none.
	verified time.Time
	// measured says that source groups agree on correction = true time − node.
	measured   bool
	correction time.Duration
	sources    []string
}

// usable says whether the measured time may be used and, if not, why.
func (r reading) usable() (string, bool) {
	switch {
	case !r.measured && len(r.sources) == 0:
		return "no time was measured", false
	case !r.measured:
		return "no two source groups agree (" + strings.Join(r.sources, ", ") + ")", false
	case len(r.sources) < 2:
		return "fewer than two sources agree", false
	case r.verified.Sub(r.node.Add(r.correction)) > measuredSlack:
		return "the measured time " + stamp(r.node.Add(r.correction)) + " is before the last verified one", false
	}
	return "", true
}

// A verification says at which time a certificate was found valid.
type verification struct {
	at     time.Time
	status *evidencev1.TLSTime
}

// trusted says whether the time may be kept as the last verified one: a fallback
// is a lower bound, not a time.
func (v verification) trusted() bool {
	return v.status.GetSource() != evidencev1.TLSTime_FALLBACK
}

// verifyServer verifies a server's certificate chain for a host against the
// pinned authorities, which is all that crypto/tls would do, and one thing more:
// if it fails with the node's clock, on time and on nothing else, it is tried
// once at a better time. That is the measured time if two source groups agree on
// one. Only if none is usable it is max(build time, NotBefore of the CA, last
// verified time), a lower bound of the true time. In either case it is never
// outside the validity of the CA and never before the last verified time.
//
// What remains: with a fallback, a certificate of the pinned CA that has expired
// since the last verified time is accepted, as long as the node's clock is
// outside its validity and no time could be measured. Whoever holds the key of
// such a certificate and can cut the node off from its time sources could pose
// as the aggregator. With a measured time there is no such gap: it decides alone,
// and a certificate that is not valid then is refused.
func verifyServer(host string, chain, authorities []*x509.Certificate, now reading) (verification, error) {
	first := verifyAt(host, chain, authorities, now.node)
	if first == nil {
		return verification{now.node, &evidencev1.TLSTime{Source: evidencev1.TLSTime_NODE_CLOCK}}, nil
	}
	var invalid x509.CertificateInvalidError
	if !errors.As(first, &invalid) || invalid.Reason != x509.Expired {
		return verification{}, fmt.Errorf("verify certificate of %s: %w", host, first)
	}
	because := "certificate of " + host + " is not valid at the node's time " + stamp(now.node)
	why, ok := now.usable()
	if ok {
		at := later(now.node.Add(now.correction), now.verified)
		if err := verifyAt(host, chain, authorities, at); err != nil {
			return verification{}, fmt.Errorf("verify certificate of %s at the node's time and at the measured time %s (%s): %w", host, stamp(at), strings.Join(now.sources, ", "), err)
		}
		return corrected(evidencev1.TLSTime_MEASURED, at, now, because+"; measured by "+strings.Join(now.sources, ", ")), nil
	}
	var refusals []error
	for _, authority := range authorities {
		at := later(now.build, later(authority.NotBefore, now.verified))
		err := verifyAt(host, chain, []*x509.Certificate{authority}, at)
		if err == nil {
			return corrected(evidencev1.TLSTime_FALLBACK, at, now, because+"; "+why+"; used "+boundName(at, now)), nil
		}
		refusals = append(refusals, fmt.Errorf("at the fallback time %s: %w", stamp(at), err))
	}
	return verification{}, fmt.Errorf("verify certificate of %s: %w; %s; %w", host, first, why, errors.Join(refusals...))
}

func corrected(source evidencev1.TLSTime_Source, at time.Time, now reading, detail string) verification {
	return verification{at, &evidencev1.TLSTime{
		Source:            source,
		CorrectionSeconds: at.Sub(now.node).Seconds(),
		Detail:            detail,
	}}
}

func boundName(at time.Time, now reading) string {
	switch {
	case at.Equal(now.verified):
		return "the last verified time"
	case at.Equal(now.build):
		return "the build time"
	}
	return "the CA's NotBefore"
}

// verifyAt is the whole verification at one time: the chain leads to a pinned
// authority, the leaf is a server's and names the host, and the authority itself
// is valid.
func verifyAt(host string, chain, authorities []*x509.Certificate, at time.Time) error {
	if len(chain) == 0 {
		return errors.New("the server sent no certificate")
	}
	if at.IsZero() {
		// x509 would take the zero time for the present one.
		return errors.New("no time to verify it at")
	}
	options := x509.VerifyOptions{
		DNSName:       host,
		Roots:         x509.NewCertPool(),
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, a := range authorities {
		// Stated although x509 looks at the roots' validity, too: that the pinned
		// CA bounds every correction must not hang on a detail of a library.
		if !at.Before(a.NotBefore) && !at.After(a.NotAfter) {
			options.Roots.AddCert(a)
		}
	}
	if options.Roots.Equal(x509.NewCertPool()) {
		return x509.CertificateInvalidError{Cert: authorities[0], Reason: x509.Expired,
			Detail: "the time " + stamp(at) + " is outside the validity of the CA"}
	}
	for _, c := range chain[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(options)
	return err
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// parseAuthorities reads the pinned certificates. Each must be a CA.
func parseAuthorities(data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse CA certificate %d: %w", len(out)+1, err)
		}
		if !c.IsCA {
			return nil, fmt.Errorf("parse CA certificate %d (%s): it is not a CA", len(out)+1, c.Subject)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("parse CA certificates: no PEM block CERTIFICATE found")
	}
	return out, nil
}
