package clientapi_test

import (
	"strings"
	"testing"
)

func TestPushRules(t *testing.T) {
	each(t, nil, func(t *testing.T, n *node) {
		token := n.user(t, "alice")
		const all = v3 + "/pushrules/"
		const global = all + "global/"
		rules := n.do(t, "GET", all, token, "").want(200, "")
		if !strings.Contains(rules.text, `".m.rule.master"`) || !strings.Contains(rules.text, `"content":[]`) {
			t.Errorf("rules %s", rules.text)
		}
		n.do(t, "GET", v3+"/user/@alice:x.org/account_data/m.push_rules", token, "").json(rules.text)
		n.do(t, "GET", strings.TrimSuffix(all, "/"), token, "").json(rules.text)
		n.do(t, "GET", global, token, "").want(200, "")

		const rule = global + "content/nono"
		n.do(t, "GET", rule, token, "").want(404, "M_NOT_FOUND")
		n.do(t, "PUT", rule, token, `{"actions":["notify"],"pattern":"cake*lie"}`).json(`{}`)
		n.do(t, "GET", rule, token, "").json(`{"rule_id":"nono","default":false,"enabled":true,"pattern":"cake*lie","actions":["notify"]}`)
		n.do(t, "PUT", rule+"/enabled", token, `{"enabled":false}`).json(`{}`)
		n.do(t, "GET", rule+"/enabled", token, "").json(`{"enabled":false}`)
		n.do(t, "PUT", rule+"/actions", token, `{"actions":[{"set_tweak":"highlight"}]}`).json(`{}`)
		n.do(t, "GET", rule+"/actions", token, "").json(`{"actions":[{"set_tweak":"highlight"}]}`)
		n.do(t, "PUT", global+"content/first?before=nono", token, `{"actions":[],"pattern":"x"}`).json(`{}`)
		text := n.do(t, "GET", global, token, "").want(200, "").text
		if strings.Index(text, `"first"`) > strings.Index(text, `"nono"`) {
			t.Errorf("rules %s", text)
		}
		n.do(t, "PUT", global+"override/.m.rule.master/enabled", token, `{"enabled":true}`).json(`{}`)
		n.do(t, "GET", global+"override/.m.rule.master/enabled", token, "").json(`{"enabled":true}`)

		for _, test := range []struct {
			method, path, body string
			status             int
			code               string
		}{
			{"PUT", global + "content/.mine", `{"actions":[],"pattern":"x"}`, 400, "M_INVALID_PARAM"},
			{"PUT", global + "content/a%2Fb", `{"actions":[],"pattern":"x"}`, 400, "M_INVALID_PARAM"},
			{"PUT", global + "content/a", `{"actions":[]}`, 400, "M_MISSING_PARAM"},
			{"PUT", global + "content/a", `{"pattern":"x"}`, 400, "M_MISSING_PARAM"},
			{"PUT", global + "content/a", `{"actions":7,"pattern":"x"}`, 400, "M_BAD_JSON"},
			{"PUT", global + "content/a?before=none", `{"actions":[],"pattern":"x"}`, 400, "M_UNKNOWN"},
			{"PUT", global + "content/a/enabled", `{"enabled":true}`, 404, "M_NOT_FOUND"},
			{"PUT", global + "content/nono/enabled", `{}`, 400, "M_MISSING_PARAM"},
			{"PUT", global + "content/nono/actions", `{}`, 400, "M_MISSING_PARAM"},
			{"GET", global + "content/a/actions", ``, 404, "M_NOT_FOUND"},
			{"GET", global + "other/a", ``, 404, "M_NOT_FOUND"},
			{"DELETE", global + "content/a", ``, 404, "M_NOT_FOUND"},
			{"GET", all + "device/content/a", ``, 404, "M_UNRECOGNIZED"},
		} {
			n.do(t, test.method, test.path, token, test.body).want(test.status, test.code)
		}
		n.do(t, "DELETE", rule, token, "").json(`{}`)
		n.do(t, "GET", rule, token, "").want(404, "M_NOT_FOUND")
	})
}
