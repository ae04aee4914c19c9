// Shows /openapi.json with Swagger UI; nothing is loaded from elsewhere.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#api", deepLinking: true, validatorUrl: null });
