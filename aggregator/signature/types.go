// Copyright The Plumb Authors.
// SPDX-License-Identifier: Apache-2.0

package signature

import (
	"math"
	"sort"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/checker"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"

	"github.com/plumb-dev/plumb/evidence"
)

// subjectVariable is what expressions call the thing that is weighed.
const subjectVariable = "subject"

// subjectFields are known always; a pod that is not known is the empty text.
var subjectFields = [...]string{"kind", "key", "name", "parent", "pod", "node", "zone"}

// typePrefix keeps the types of the variables apart from everything in CEL.
const typePrefix = "plumb."

// A typeProvider gives every probe's variable a type with the catalogue's items
// as its fields. The fields have a type and no accessor, so that the checker
// knows them and plain maps bind at run time; a protobuf message never does.
type typeProvider struct {
	*types.Registry
	fields map[string]map[string]*types.FieldType
}

func newTypeProvider(catalog *evidence.Catalog) (*typeProvider, error) {
	registry, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	p := &typeProvider{Registry: registry, fields: map[string]map[string]*types.FieldType{}}
	for _, item := range catalog.Items() {
		p.add(item.Probe(), item.Field(), celType(item.Type))
	}
	for _, name := range subjectFields {
		p.add(subjectVariable, name, types.StringType)
	}
	return p, nil
}

func (p *typeProvider) add(variable, field string, t *types.Type) {
	name := typePrefix + variable
	if p.fields[name] == nil {
		p.fields[name] = map[string]*types.FieldType{}
	}
	p.fields[name][field] = &types.FieldType{Type: t}
}

// FindStructType implements types.Provider.
func (p *typeProvider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.fields[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames implements types.Provider.
func (p *typeProvider) FindStructFieldNames(name string) ([]string, bool) {
	fields, ok := p.fields[name]
	if !ok {
		return p.Registry.FindStructFieldNames(name)
	}
	names := make([]string, 0, len(fields))
	for f := range fields {
		names = append(names, f)
	}
	sort.Strings(names)
	return names, true
}

// FindStructFieldType implements types.Provider.
func (p *typeProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	if fields, ok := p.fields[name]; ok {
		t, ok := fields[field]
		return t, ok
	}
	return p.Registry.FindStructFieldType(name, field)
}

func celType(t evidence.Type) *types.Type {
	switch t {
	case evidence.TypeInteger:
		return types.IntType
	case evidence.TypeNumber:
		return types.DoubleType
	case evidence.TypeFlag:
		return types.BoolType
	default:
		return types.StringType
	}
}

// newEnvironment is CEL with one variable per probe. Macros over lists are left
// out: per-thing rules are evaluated once per thing.
func newEnvironment(catalog *evidence.Catalog) (*cel.Env, error) {
	provider, err := newTypeProvider(catalog)
	if err != nil {
		return nil, err
	}
	options := []cel.EnvOption{
		cel.CustomTypeAdapter(provider.Registry),
		cel.CustomTypeProvider(provider),
		cel.ClearMacros(),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpressionRunes),
		cel.ParserRecursionLimit(maxExpressionDepth),
		cel.Function("abs",
			cel.Overload("abs_double", []*cel.Type{cel.DoubleType}, cel.DoubleType, cel.UnaryBinding(func(v ref.Val) ref.Val {
				return types.Double(math.Abs(float64(v.(types.Double))))
			})),
			cel.Overload("abs_int", []*cel.Type{cel.IntType}, cel.IntType, cel.UnaryBinding(func(v ref.Val) ref.Val {
				if v.(types.Int) < 0 {
					return v.(types.Int).Negate()
				}
				return v
			}))),
	}
	for name := range provider.fields {
		options = append(options, cel.Variable(name[len(typePrefix):], cel.ObjectType(name)))
	}
	return cel.NewEnv(options...)
}

// sizes tells the cost estimator how long texts can be.
type sizes struct{}

var _ checker.CostEstimator = sizes{}

// EstimateSize implements checker.CostEstimator: a text item has at most
// maxTextRunes, which weighing enforces.
func (sizes) EstimateSize(element checker.AstNode) *checker.SizeEstimate {
	if element.Type().Kind() == types.StringKind && len(element.Path()) > 0 {
		return &checker.SizeEstimate{Min: 0, Max: maxTextRunes}
	}
	return nil
}

// EstimateCallCost implements checker.CostEstimator with CEL's own figures.
func (sizes) EstimateCallCost(string, string, *checker.AstNode, []checker.AstNode) *checker.CallEstimate {
	return nil
}
