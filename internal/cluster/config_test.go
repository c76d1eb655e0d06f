package cluster

import "testing"

func TestCommonConfig(t *testing.T) {
	node := func(config string, running bool) Node { return Node{Config: config, Running: running} }
	for name, tt := range map[string]struct {
		nodes   []Node
		common  string
		differs []bool
	}{
		"none":                 {nil, "", nil},
		"one":                  {[]Node{node("x", true)}, "x", []bool{false}},
		"all the same":         {[]Node{node("x", true), node("x", true), node("x", true)}, "x", []bool{false, false, false}},
		"one of three":         {[]Node{node("x", true), node("y", true), node("x", true)}, "x", []bool{false, true, false}},
		"no majority":          {[]Node{node("x", true), node("y", true)}, "", []bool{true, true}},
		"one that has ended":   {[]Node{node("x", true), node("y", false)}, "x", []bool{false, false}},
		"one of before":        {[]Node{node("x", true), node("", true), node("", true)}, "x", []bool{false, false, false}},
		"half of four":         {[]Node{node("x", true), node("x", true), node("y", true), node("z", true)}, "", []bool{true, true, true, true}},
		"nobody registers one": {[]Node{node("", true)}, "", []bool{false}},
	} {
		common := CommonConfig(tt.nodes)
		if common != tt.common {
			t.Errorf("%s: got %q, want %q", name, common, tt.common)
		}
		for i, n := range tt.nodes {
			if n.Differs(common) != tt.differs[i] {
				t.Errorf("%s: node %d differs: got %t, want %t", name, i, n.Differs(common), tt.differs[i])
			}
		}
	}
}
