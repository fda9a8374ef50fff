// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package ingest

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// certificates serves a pair of files and reads them again when they change. A
// new pair that cannot be used leaves the old one in service.
type certificates struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger
	reloads           *prometheus.CounterVec

	mu      sync.Mutex
	pair    *tls.Certificate
	stamp   [2]time.Time // of the files that were read last, good or bad
	checked time.Time
}

// checkEvery bounds how often handshakes look at the files.
const checkEvery = time.Second

func (c *certificates) load() error {
	stamp, err := c.stamps()
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	c.stamp = stamp
	if err != nil {
		return fmt.Errorf("read certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.pair = &pair
	return nil
}

func (c *certificates) stamps() (out [2]time.Time, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		st, err := os.Stat(path)
		if err != nil {
			return out, fmt.Errorf("read the certificate of the ingest listener: %w", err)
		}
		out[i] = st.ModTime()
	}
	return out, nil
}

// get implements tls.Config.GetCertificate.
func (c *certificates) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	// The clock may be set back; then the files are looked at once more.
	if since := now.Sub(c.checked); since >= 0 && since < checkEvery {
		return c.pair, nil
	}
	c.checked = now
	stamp, err := c.stamps()
	if err == nil && stamp == c.stamp {
		return c.pair, nil
	}
	if err == nil {
		err = c.load()
	} else if c.stamp == stamp {
		return c.pair, nil // missing, and reported when it went missing
	} else {
		c.stamp = stamp
	}
	if err != nil {
		c.reloads.WithLabelValues("error").Inc()
		c.log.Error("cannot read the changed certificate, the earlier one stays", "error", err)
		return c.pair, nil
	}
	c.reloads.WithLabelValues("ok").Inc()
	c.log.Info("read the changed certificate", "file", c.certFile)
	return c.pair, nil
}
