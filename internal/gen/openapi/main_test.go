package main

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tidwall/gjson"
)

const endpointFile = `
openapi: 3.1.0
info:
  title: a part
paths:
  "/rooms/{roomId}":
    get:
      summary: prose
      description: prose
      operationId: getRoom
      x-addedInMatrixVersion: "1.2"
      security:
        - accessTokenBearer: []
      responses:
        "200":
          description: prose
          content:
            application/json:
              schema:
                type: object
                x-addedInMatrixVersion: "1.3"
                properties:
                  description:
                    type: string
                    description: prose
                  child:
                    $ref: definitions/node.yaml
        "404":
          $ref: '#/components/responses/gone'
servers:
  - url: "{basePath}"
    variables:
      basePath:
        default: /_matrix/client/v3
components:
  responses:
    gone:
      description: prose
      content:
        application/json:
          schema:
            $ref: definitions/node.yaml
`

func TestGenerate(t *testing.T) {
	data := fstest.MapFS{
		"api/one/rooms.yaml":            {Data: []byte(endpointFile)},
		"api/one/definitions/node.yaml": {Data: []byte("type: object\ntitle: prose\nproperties:\n  next:\n    $ref: node.yaml\n")},
	}
	var out strings.Builder
	if err := generate(&out, data, "api/one"); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	if !json.Valid([]byte(text)) || strings.Contains(text, "prose") {
		t.Fatalf("prose is left, or it is no JSON: %s", text)
	}
	const node = `#/components/schemas/api-one-definitions-node`
	get := `paths./_matrix/client/v3/rooms/{roomId}.get`
	for path, want := range map[string]string{
		get + ".operationId":                                                 "getRoom",
		get + ".x-addedInMatrixVersion":                                      "1.2",
		get + ".security.0.accessTokenBearer.#":                              "0",
		get + ".responses.404.\\$ref":                                        "#/components/responses/api-one-rooms.components-responses-gone",
		schemaOf(get) + ".properties.child.\\$ref":                           node,
		schemaOf(get) + ".properties.description":                            `{"type":"string"}`,
		schemaOf(get) + ".x-addedInMatrixVersion":                            "",
		"components.schemas.api-one-definitions-node.properties.next.\\$ref": node,
	} {
		got := gjson.Get(text, path)
		value := got.String()
		if got.IsObject() {
			value = gjson.Get(text, path+"|@ugly").Raw
		}
		if value != want {
			t.Errorf("%s is %q, want %q", path, value, want)
		}
	}
}

func schemaOf(operation string) string {
	return operation + `.responses.200.content.application/json.schema`
}

func TestMissingReferenceIsRefused(t *testing.T) {
	data := fstest.MapFS{"api/one/rooms.yaml": {Data: []byte(endpointFile)}}
	if err := generate(&strings.Builder{}, data, "api/one"); err == nil {
		t.Error("no error although a file is missing")
	}
}
