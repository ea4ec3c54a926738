"""The process `moatd`: joins the parts, holds no protocol of its own."""
