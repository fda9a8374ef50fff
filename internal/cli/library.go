// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"

	"github.com/plumb-dev/plumb/aggregator/signature"
	"github.com/plumb-dev/plumb/evidence"
)

// SignatureFiles is the Library of the aggregator's own loader, so that a file
// that passes here also loads there.
type SignatureFiles struct {
	// Catalog is what the expressions may name.
	Catalog *evidence.Catalog
}

var _ Library = SignatureFiles{}

// Check implements Library.
func (l SignatureFiles) Check(path string) []error {
	return eachProblem(signature.Check(path, l.Catalog))
}

func eachProblem(problems []signature.Problem) []error {
	var out []error
	for _, p := range problems {
		out = append(out, p)
	}
	return out
}

// Test implements Library.
func (l SignatureFiles) Test(dir string) (TestReport, error) {
	r, err := signature.Test(dir, l.Catalog)
	var problems signature.Problems
	if errors.As(err, &problems) {
		return TestReport{}, errors.Join(eachProblem(problems)...)
	}
	if err != nil {
		return TestReport{}, err
	}
	report := TestReport{Signatures: r.Signatures, Cases: r.Cases, Generated: r.Generated, Failures: []TestFailure{}}
	for _, f := range r.Failures {
		report.Failures = append(report.Failures, TestFailure(f))
	}
	return report, nil
}
