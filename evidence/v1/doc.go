// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

// Package evidencev1 is the generated wire contract between agent and
// aggregator; the contract itself and its comments are in evidence.proto.
package evidencev1

//go:generate sh -c "cd ../.. && protoc --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-connect-go=$(go tool -n protoc-gen-connect-go) --go_out=. --go_opt=module=github.com/plumb-dev/plumb --connect-go_out=. --connect-go_opt=module=github.com/plumb-dev/plumb evidence/v1/evidence.proto"
