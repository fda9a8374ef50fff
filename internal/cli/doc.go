// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package cli is what a person types: the verbs of plumb, the client of the
// aggregator's read API behind them, and how their answers look on a terminal.
//
// Every verb answers in two forms: for people (wrapped to the terminal, colour
// only on one, ASCII where the locale asks for it) and, with --json, exactly as
// the API says it. Answers go to standard output; trouble goes to standard
// error as one line that says what, why and the mend.
//
// The package renders what the aggregator decided. It weighs nothing itself.
package cli
