// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sort"

	"github.com/google/cel-go/cel"
	"go.yaml.in/yaml/v3"

	"github.com/plumb-dev/plumb/evidence"
)

// Load reads every *.yaml below fsys. The error, if any, is of type Problems
// and names all faults of all files; nothing is loaded then, for half a library
// would be silent about the other half. Signatures are sorted by id.
func Load(fsys fs.FS, catalog *evidence.Catalog) ([]*Signature, error) {
	return loadTree(fsys, "", catalog, false)
}

// LoadBuiltin is Load with the rules for the library that ships with Plumb:
// every signature has test cases that fire, that each refuter stops, and that
// lack the decisive evidence; keepFiringFor is at most 30 s. Its expressions
// are trusted to cost what they were estimated at.
func LoadBuiltin(fsys fs.FS, catalog *evidence.Catalog) ([]*Signature, error) {
	return loadTree(fsys, "", catalog, true)
}

// LoadDir is Load of a directory; problems and origins name the whole path.
func LoadDir(dir string, catalog *evidence.Catalog) ([]*Signature, error) {
	return loadTree(os.DirFS(dir), dir, catalog, false)
}

// LoadFile loads one file.
func LoadFile(name string, catalog *evidence.Catalog) (*Signature, error) {
	s, problems := loadPath(name, catalog)
	if err := problems.asError(); err != nil {
		return nil, err
	}
	return s, nil
}

// Check returns what is wrong with one file, in the order of its lines; nil
// when it would load.
func Check(name string, catalog *evidence.Catalog) []Problem {
	_, problems := loadPath(name, catalog)
	return problems.sorted()
}

// Merge joins libraries, for example the built-in one and a user's. Two
// signatures with one id are an error that names both files.
func Merge(lists ...[]*Signature) ([]*Signature, error) {
	var out []*Signature
	origin := map[string]string{}
	var problems Problems
	for _, list := range lists {
		for _, s := range list {
			if first, twice := origin[s.ID]; twice {
				problems = append(problems, collision(s.Origin, 1, s.ID, first))
				continue
			}
			origin[s.ID] = s.Origin
			out = append(out, s)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	if err := problems.asError(); err != nil {
		return nil, err
	}
	return out, nil
}

func collision(file string, line int, id, first string) Problem {
	return Problem{File: file, Line: line, Column: 1, What: fmt.Sprintf("signature id %q is taken", id), Why: first + " has it already", Mend: "choose another id"}
}

func unreadable(name string, err error) Problem {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		err = pathError.Err
	}
	return Problem{File: name, What: "cannot be read", Why: err.Error(), Mend: "check the path and its permissions"}
}

func loadPath(name string, catalog *evidence.Catalog) (*Signature, Problems) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, Problems{unreadable(name, err)}
	}
	env, err := newEnvironment(catalog)
	if err != nil {
		return nil, Problems{{File: name, What: "cannot set up CEL", Why: err.Error(), Mend: "report this as a defect of Plumb"}}
	}
	return parse(name, data, env, catalog, false)
}

func loadTree(fsys fs.FS, prefix string, catalog *evidence.Catalog, strict bool) ([]*Signature, error) {
	env, err := newEnvironment(catalog)
	if err != nil {
		return nil, fmt.Errorf("set up CEL: %w", err)
	}
	var out []*Signature
	var problems Problems
	err = fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		shown := name
		if prefix != "" {
			shown = filepath.Join(prefix, name)
		}
		if err != nil {
			problems = append(problems, unreadable(shown, err))
			return nil
		}
		if d.IsDir() || path.Ext(name) != ".yaml" {
			return nil
		}
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			problems = append(problems, unreadable(shown, err))
			return nil
		}
		s, found := parse(shown, data, env, catalog, strict)
		problems = append(problems, found...)
		if s == nil {
			return nil
		}
		if i := slices.IndexFunc(out, func(o *Signature) bool { return o.ID == s.ID }); i >= 0 {
			problems = append(problems, collision(shown, 1, s.ID, out[i].Origin))
			return nil
		}
		out = append(out, s)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("walk signatures: %w", err)
	}
	if err := problems.asError(); err != nil {
		return nil, err
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

// parse builds one signature from the bytes of a file; nil with problems.
func parse(name string, data []byte, env *cel.Env, catalog *evidence.Catalog, strict bool) (*Signature, Problems) {
	src := newSource(name, data)
	root := src.parse(data)
	if root == nil {
		return nil, src.problems
	}
	sum := sha256.Sum256(data)
	b := &builder{
		compiler: &compiler{env: env, catalog: catalog, src: src, limited: !strict, index: map[uint32]int{}},
		sig:      &Signature{Origin: name, Hash: hex.EncodeToString(sum[:8])},
		ids:      map[string]*yaml.Node{},
		byID:     map[string]int{},
		strict:   strict,
	}
	b.build(root)
	if len(src.problems) > 0 {
		return nil, src.problems
	}
	b.sig.bind(b.items)
	return b.sig, nil
}
