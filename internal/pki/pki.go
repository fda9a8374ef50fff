// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package pki makes a private certificate authority and one server certificate:
// throw-away ones for `make run`, the lab and tests. All keys are ECDSA P-256.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Options say what the server certificate is for.
type Options struct {
	// Hosts are the DNS names and IP addresses of the server; at least one.
	Hosts []string
	// NotBefore and NotAfter bound the server certificate. Zero means from an
	// hour ago, so that clocks may differ a little, and for a year.
	NotBefore, NotAfter time.Time
	// CANotBefore and CANotAfter bound the authority; zero means as the server
	// certificate. Issue ignores them.
	CANotBefore, CANotAfter time.Time
	// Now is the clock for the defaults; nil means time.Now.
	Now func() time.Time
}

// Files are the paths of what was made, PEM, mode 0600.
type Files struct {
	// CA is the certificate that clients pin, CAKey its key.
	CA, CAKey string
	// Cert and Key are the server's.
	Cert, Key string
}

// FilesIn names the files that Create makes in a directory.
func FilesIn(dir string) Files {
	return Files{
		CA: filepath.Join(dir, "ca.crt"), CAKey: filepath.Join(dir, "ca.key"),
		Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key"),
	}
}

// Create makes an authority and a server certificate in dir, which is made if
// missing. Files of an earlier call are replaced, each in one step.
func Create(dir string, opts Options) (Files, error) {
	files := FilesIn(dir)
	if err := opts.complete(); err != nil {
		return Files{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Files{}, fmt.Errorf("make certificates: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("make certificates: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Files{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Plumb private CA"},
		NotBefore:             opts.CANotBefore,
		NotAfter:              opts.CANotAfter,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return Files{}, fmt.Errorf("make certificates: sign the authority: %w", err)
	}
	if err := writePair(files.CA, files.CAKey, der, key); err != nil {
		return Files{}, err
	}
	return Issue(dir, opts)
}

// Issue makes a new server certificate with the authority that Create left in
// dir.
//
// Without an Options.NotBefore it is valid since the authority is: an agent
// whose clock is wrong and that has no measured time verifies it at a time
// that may be as early as that.
func Issue(dir string, opts Options) (Files, error) {
	files := FilesIn(dir)
	backdate := opts.NotBefore.IsZero()
	if err := opts.complete(); err != nil {
		return Files{}, err
	}
	ca, caKey, err := readPair(files.CA, files.CAKey)
	if err != nil {
		return Files{}, err
	}
	if backdate {
		opts.NotBefore = ca.NotBefore
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("make certificates: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return Files{}, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "plumb-aggregator"},
		NotBefore:             opts.NotBefore,
		NotAfter:              opts.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range opts.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, caKey)
	if err != nil {
		return Files{}, fmt.Errorf("make certificates: sign the server's: %w", err)
	}
	return files, writePair(files.Cert, files.Key, der, key)
}

func (o *Options) complete() error {
	now := time.Now
	if o.Now != nil {
		now = o.Now
	}
	if o.NotBefore.IsZero() {
		o.NotBefore = now().Add(-time.Hour)
	}
	if o.NotAfter.IsZero() {
		o.NotAfter = o.NotBefore.AddDate(1, 0, 0)
	}
	if o.CANotBefore.IsZero() {
		o.CANotBefore = o.NotBefore
	}
	if o.CANotAfter.IsZero() {
		o.CANotAfter = o.NotAfter
	}
	switch {
	case len(o.Hosts) == 0:
		return errors.New("make certificates: name at least one host")
	case !o.NotAfter.After(o.NotBefore), !o.CANotAfter.After(o.CANotBefore):
		return errors.New("make certificates: a certificate must begin before it ends")
	}
	for _, h := range o.Hosts {
		if h == "" {
			return errors.New("make certificates: a host is empty")
		}
	}
	return nil
}

// newSerial is random and positive (RFC 5280 section 4.1.2.2: at most 20 bytes).
func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

// writePair replaces the key before the certificate; a server that reads between
// the two finds a pair that does not match and keeps its old one.
func writePair(certPath, keyPath string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	if err := writePEM(keyPath, "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(certPath, "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	// CreateTemp makes the file 0600, whatever the umask.
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	err = errors.Join(pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return fmt.Errorf("make certificates: write %s: %w", path, err)
	}
	return nil
}

func readPair(certPath, keyPath string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	var ders [2][]byte
	for i, path := range []string{certPath, keyPath} {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, nil, fmt.Errorf("read the authority: %w", err)
		}
		block, _ := pem.Decode(data)
		if block == nil {
			return nil, nil, fmt.Errorf("read the authority: %s is not PEM", path)
		}
		ders[i] = block.Bytes
	}
	cert, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return nil, nil, fmt.Errorf("read the authority: %s: %w", certPath, err)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(ders[1])
	if err != nil {
		return nil, nil, fmt.Errorf("read the authority: %s: %w", keyPath, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("read the authority: %s is not an ECDSA key", keyPath)
	}
	return cert, key, nil
}
